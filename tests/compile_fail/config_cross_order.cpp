// SPDX-License-Identifier: MIT
// error: TextConfig: cross must ascend
#include <mllama/models/mllama/cache.hpp>

#ifdef MLLAMA_WRONG
constexpr int second = 3;
#else
constexpr int second = 4;
#endif

struct Other : mllama::Text11B {
  static constexpr std::array cross{3, second};
};
static_assert(mllama::TextShape<Other>::self_layers == 38);
