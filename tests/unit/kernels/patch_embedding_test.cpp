// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <cstddef>
#include <numeric>
#include <vector>

#include <mllama/core/context.hpp>
#include <mllama/kernels/patch_embedding.hpp>

using namespace mllama;

TEST_CASE("a patch is flattened by channel, row and column; patches are in row-major order") {
  struct Case {
    std::size_t channels, side, patch;
  };
  for (const auto& [channels, side, patch] : {Case{1, 4, 2}, Case{3, 28, 14}, Case{2, 15, 5}, Case{3, 7, 7}, Case{1, 6, 1}}) {
    CAPTURE(side);
    CAPTURE(patch);
    std::vector<float> picture(channels * side * side);
    std::iota(picture.begin(), picture.end(), 0.0F);
    const std::size_t grid = side / patch, width = channels * patch * patch;
    std::vector<float> out(grid * grid * width);
    Context ctx(2);
    kernels::extract_patches(ctx, picture.data(), channels, side, patch, Matrix<float>{out.data(), grid * grid, width, width});
    bool right = true;
    for (std::size_t p = 0; p < grid * grid; ++p) {
      for (std::size_t i = 0; i < width; ++i) {
        const std::size_t channel = i / (patch * patch), row = p / grid * patch + i / patch % patch,
                          column = p % grid * patch + i % patch;
        right = right && out[p * width + i] == picture[(channel * side + row) * side + column];
      }
    }
    CHECK(right);
  }
}
