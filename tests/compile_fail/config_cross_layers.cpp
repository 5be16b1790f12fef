// SPDX-License-Identifier: MIT
// error: TextConfig: cross lists positions in the stack of `layers` layers
// values: 40 < 40
#include <mllama/models/mllama/cache.hpp>

#ifdef MLLAMA_WRONG
constexpr int last = 40;
#else
constexpr int last = 39;
#endif

struct Other : mllama::Text11B {
  static constexpr std::array cross{3, last};
};
static_assert(mllama::TextShape<Other>::self_layers == 38);
