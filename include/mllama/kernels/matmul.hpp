// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>

#include <mllama/core/context.hpp>
#include <mllama/core/format.hpp>
#include <mllama/core/tensor.hpp>

/// Products of activations with stored weights.

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
  void store(float product, std::size_t row, std::size_t column, float& y) const {
    if (bias != nullptr) product += bias[column];
    if (!accumulate) {
      y = product;
    } else if (row_mask == nullptr || row_mask[row] != 0) {
      y += scale * product;
    }
  }
};

}  // namespace mllama::kernels

#include <mllama/kernels/reference/matmul.hpp>
#include <mllama/kernels/simd/matmul.hpp>
#include <mllama/kernels/x86/packed.hpp>
// Needs the bodies above.
#include <mllama/kernels/llm_int8.hpp>

namespace mllama::kernels {

/// Matrix product with the weights of a linear layer, stored in any format: `x · Wᵀ`, then the epilogue.
/// Shapes:  x (rows, in);  w (out, in);  y (rows, out).
/// Costs:   reads the weights once per panel of rows; allocates nothing after warm-up.
/// Source:  torch.nn.Linear; for 4-bit weights the product is that of the decoded float32 weights, accumulated in float32.
template <class Ctx, WeightFormat F>
void matmul(Ctx& ctx, Matrix<const float> x, const Weights<F>& w, const Epilogue& epilogue, Matrix<float> y) {
  if (x.rows == 0) return;
  with_format(w, [&](const auto& weights) { matmul_body(typename Ctx::backend{}, ctx, x, weights, epilogue, y); });
}

}  // namespace mllama::kernels
