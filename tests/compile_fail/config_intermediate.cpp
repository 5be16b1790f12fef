// SPDX-License-Identifier: MIT
// error: VisionConfig: intermediate lists layers of the local encoder, or its end
#include <mllama/models/mllama/vision.hpp>

#ifdef MLLAMA_WRONG
constexpr int last = 33;
#else
constexpr int last = 32;
#endif

struct Deep : mllama::Vision560 {
  static constexpr std::array intermediate{3, last};
};
static_assert(mllama::VisionShape<Deep>::output == 3 * 1280);
