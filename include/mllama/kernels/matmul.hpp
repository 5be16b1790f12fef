// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstddef>
#include <span>
#include <variant>

#include <mllama/core/context.hpp>
#include <mllama/core/format.hpp>
#include <mllama/core/tensor.hpp>
#include <mllama/kernels/epilogue.hpp>
#include <mllama/kernels/product.hpp>

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

namespace detail {
/// False if the products have to be computed one by one.
template <class Ctx, class F>
bool multiply_together(Ctx& ctx, Matrix<const float> x, std::span<const Product<F>> products) {
  if (products.size() < 2 || products.size() > most_products) return false;
  if constexpr (requires(const Weights<F>& w) { w.stored; }) {
    return with_format(*products[0].weights, [&]<class G>(const Weights<G>&) {
      std::array<Product<G>, most_products> same;
      for (std::size_t i = 0; i < products.size(); ++i) {
        const auto* const weights = std::get_if<Weights<G>>(&products[i].weights->stored);
        if (weights == nullptr) return false;
        same[i] = {weights, products[i].epilogue, products[i].y};
      }
      return detail::multiply_together<Ctx, G>(ctx, x, {same.data(), products.size()});
    });
  } else {
    return kernels::multiply_together(typename Ctx::backend{}, ctx, x, products);
  }
}
}  // namespace detail

/// Several products of the same activations. If a body takes all of them, x is read and prepared once, and threads meet once.
/// Results are bit for bit those of the products one by one.
/// Shapes:  x (rows, in);  each product's w (out, in), y (rows, out). No y may overlap x or another y.
template <class Ctx, WeightFormat F>
void matmul(Ctx& ctx, Matrix<const float> x, std::span<const Product<F>> products) {
  if (x.rows == 0 || detail::multiply_together(ctx, x, products)) return;
  for (const Product<F>& product : products) matmul(ctx, x, *product.weights, product.epilogue, product.y);
}

}  // namespace mllama::kernels
