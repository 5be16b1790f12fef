// SPDX-License-Identifier: MIT
// error: TextConfig: kv_heads must be at least 1
// values: 0 > 0
#include <mllama/models/mllama/cache.hpp>

#ifdef MLLAMA_WRONG
constexpr int kv_heads = 0;
#else
constexpr int kv_heads = 4;
#endif

struct Other : mllama::Text11B {
  static constexpr int kv_heads = ::kv_heads;
};
static_assert(mllama::TextShape<Other>::self_layers == 32);
