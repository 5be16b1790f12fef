// SPDX-License-Identifier: MIT
// error: VisionConfig: image must be a multiple of patch
#include <mllama/models/mllama/vision.hpp>

#ifdef MLLAMA_WRONG
constexpr int side = 561;
#else
constexpr int side = 574;
#endif

struct Wide : mllama::Vision560 {
  static constexpr int image = side;
};
static_assert(mllama::VisionModel<Wide>::outputs > 0);
