// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstddef>
#include <span>

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

/// One of several products of the same activations.
template <WeightFormat F>
struct ProductWith {
  const Weights<F>& weights;
  Epilogue epilogue;
  Matrix<float> y;
};

/// Several products of the same activations, bit for bit as one by one: where the weights are alike, activations are prepared once
/// for all of them, and threads meet once.
template <class Ctx, WeightFormat... Fs>
void matmul(Ctx& ctx, Matrix<const float> x, const ProductWith<Fs>&... products) {
  if (x.rows == 0) return;
  std::array<isa::Product, sizeof...(Fs)> alike;
  std::size_t count = 0;
  const auto add = [&](const auto& product) {
    with_format(product.weights, [&](const auto& weights) {
      const typename Ctx::backend backend{};
      isa::Operand operand = operand_of(backend, ctx, weights, x.rows);
      if (operand.body == nullptr) return matmul_body(backend, ctx, x, weights, product.epilogue, product.y);
      if (count != 0 && operand.body != alike[0].weights.body) {
        isa::multiply(ctx, x, std::span<const isa::Product>(alike.data(), count));
        count = 0;
      }
      alike[count++] = {operand, product.epilogue, product.y};
    });
  };
  (add(products), ...);
  if (count != 0) isa::multiply(ctx, x, std::span<const isa::Product>(alike.data(), count));
}

}  // namespace mllama::kernels
