// SPDX-License-Identifier: MIT
// error: Mllama<VisionC, TextC>: VisionC::projector must take rows as wide as VisionC::model makes them
// values: 1280 == 7680
#include <mllama/models/mllama/mllama.hpp>

#ifdef MLLAMA_WRONG
constexpr int width = 1280;
#else
constexpr int width = 7680;
#endif

struct Other : mllama::Vision560 {
  template <class V, class T>
  using projector = mllama::Linear<mllama::NF4, width, T::hidden, true>;
};
static_assert(sizeof(mllama::Mllama<Other, mllama::Text11B>) > 0);
