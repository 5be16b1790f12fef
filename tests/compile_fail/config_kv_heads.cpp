// SPDX-License-Identifier: MIT
// error: TextConfig: heads must be a multiple of kv_heads
#include <mllama/models/mllama/cache.hpp>

#ifdef MLLAMA_WRONG
constexpr int kv_heads = 6;
#else
constexpr int kv_heads = 4;
#endif

struct Other : mllama::Text11B {
  static constexpr int kv_heads = ::kv_heads;
};
static_assert(mllama::TextShape<Other>::self_layers == 32);
