// SPDX-License-Identifier: MIT
// error: TextConfig: hidden must be a multiple of heads
#include <mllama/models/mllama/cache.hpp>

#ifdef MLLAMA_WRONG
constexpr int count = 30;
#else
constexpr int count = 16;
#endif

struct Other : mllama::Text11B {
  static constexpr int heads = count;
};
static_assert(mllama::TextShape<Other>::self_layers == 32);
