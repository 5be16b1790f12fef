// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>

#include <mllama/core/tensor.hpp>

namespace mllama::kernels {

/// Cuts a picture into square patches, so that a convolution with kernel = stride = patch is a matrix product: a patch is flattened
/// in (channel, row, column) order, patches are in row-major order.
/// Shapes:  picture (channels, side, side);  out ((side / patch)², channels · patch²)
template <class Ctx>
void extract_patches(Ctx& ctx, const float* picture, std::size_t channels, std::size_t side, std::size_t patch, Matrix<float> out) {
  const std::size_t grid = side / patch;
  ctx.parallel(grid, 1, [&](std::size_t begin, std::size_t end, unsigned) {
    for (std::size_t row = begin; row < end; ++row) {
      for (std::size_t column = 0; column < grid; ++column) {
        float* to = out[row * grid + column];
        for (std::size_t c = 0; c < channels; ++c) {
          for (std::size_t y = 0; y < patch; ++y, to += patch) {
            std::copy_n(picture + (c * side + row * patch + y) * side + column * patch, patch, to);
          }
        }
      }
    }
  });
}

}  // namespace mllama::kernels
