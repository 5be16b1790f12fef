// SPDX-License-Identifier: MIT
// error: VisionConfig: an aspect ratio has at most `tiles` tiles
#include <mllama/models/mllama/vision.hpp>

#ifdef MLLAMA_WRONG
constexpr int columns = 3;
#else
constexpr int columns = 2;
#endif

struct Wide : mllama::Vision560 {
  static constexpr std::array aspect_ratios{mllama::TileGrid{1, 1}, mllama::TileGrid{2, columns}};
};
static_assert(mllama::VisionShape<Wide>::positions == 1601);
