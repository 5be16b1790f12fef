// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>

#include <mllama/core/format.hpp>
#include <mllama/core/tensor.hpp>
#include <mllama/kernels/epilogue.hpp>

namespace mllama::kernels {

/// One of several products of the same activations: `x · Wᵀ`, then the epilogue, to y.
template <class F>
struct Product {
  const Weights<F>* weights = nullptr;
  Epilogue epilogue{};
  Matrix<float> y{};
};

/// Products that are computed together, at most: queries, keys and values.
inline constexpr std::size_t most_products = 3;

}  // namespace mllama::kernels
