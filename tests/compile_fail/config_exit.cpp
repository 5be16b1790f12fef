// SPDX-License-Identifier: MIT
// error: TextConfig: exit_after counts layers of the stack of `layers`
// values: 41 <= 40
#include <mllama/models/mllama/cache.hpp>

#ifdef MLLAMA_WRONG
constexpr int layers = 41;
#else
constexpr int layers = 40;
#endif

struct Other : mllama::Text11B {
  static constexpr int exit_after = ::layers;
};
static_assert(mllama::TextShape<Other>::self_layers == 32);
