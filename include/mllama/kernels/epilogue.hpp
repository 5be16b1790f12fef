// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>

namespace mllama::kernels {

/// What happens to a product before it is stored: with `p = x · Wᵀ + bias`,
/// `y = p`, or, if `accumulate`, `y += scale · p` in the rows whose mask is not 0 (no mask: in all rows).
/// A residual branch is one product with an epilogue: no pass of its own over y.
struct Epilogue {
  const float* bias = nullptr;             ///< (out), or none
  bool accumulate = false;                 ///< add to y
  float scale = 1;                         ///< of an added product: a gate
  const std::uint8_t* row_mask = nullptr;  ///< (rows): rows with 0 keep their y when accumulating

  /// Stores one element of a product.
  void store(float product, std::size_t row, std::size_t column, float& y) const { store(&product, row, column, 1, &y); }

  /// Stores some elements of a row.
  void store(const float* products, std::size_t row, std::size_t column, std::size_t count, float* y) const {
    const auto put = [&](auto&& product) {
      if (!accumulate) {
        for (std::size_t i = 0; i < count; ++i) y[i] = product(i);
      } else if (row_mask == nullptr || row_mask[row] != 0) {
        for (std::size_t i = 0; i < count; ++i) y[i] += scale * product(i);
      }
    };
    if (bias == nullptr) {
      put([&](std::size_t i) { return products[i]; });
    } else {
      put([&](std::size_t i) { return products[i] + bias[column + i]; });
    }
  }
};

}  // namespace mllama::kernels
