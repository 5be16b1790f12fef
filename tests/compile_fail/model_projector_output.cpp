// SPDX-License-Identifier: MIT
// error: Mllama<VisionC, TextC>: VisionC::projector must make rows of TextC::hidden for the cross-attention layers
// values: 8192 == 4096
#include <mllama/models/mllama/mllama.hpp>

#ifdef MLLAMA_WRONG
constexpr int width = 8192;
#else
constexpr int width = 4096;
#endif

struct Other : mllama::Vision560 {
  template <class V, class T>
  using projector = mllama::Linear<mllama::NF4, 7680, width, true>;
};
static_assert(sizeof(mllama::Mllama<Other, mllama::Text11B>) > 0);
