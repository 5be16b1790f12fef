// SPDX-License-Identifier: MIT
#pragma once

#include <mllama/core/context.hpp>
#include <mllama/core/format.hpp>
#include <mllama/core/tensor.hpp>
#include <mllama/kernels/epilogue.hpp>

/// Products of activations with stored weights.

#include <mllama/kernels/reference/matmul.hpp>
#include <mllama/kernels/simd/matmul.hpp>
#include <mllama/kernels/x86/packed.hpp>
// Needs the bodies above.
#include <mllama/kernels/isa/matmul.hpp>
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
