// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <span>

#include <mllama/core/tensor.hpp>
#include <mllama/kernels/matmul.hpp>

namespace mllama {

/// The stream that a branch is added to: `y += gate · branch`, in the rows whose mask is not 0. Layers end in a product, so that
/// the addition is that product's epilogue.
template <class Row, int N>
struct Residual {
  View<float, Row, Dim<N>> y;
  float gate = 1;
  std::span<const std::uint8_t> rows = {};  ///< empty: all

  [[nodiscard]] kernels::Epilogue epilogue() const noexcept {
    return {.bias = nullptr, .accumulate = true, .scale = gate, .row_mask = rows.empty() ? nullptr : rows.data()};
  }
  [[nodiscard]] Residual slice(std::size_t first, std::size_t count) const noexcept {
    return {y.slice(first, count), gate, rows.empty() ? rows : rows.subspan(first, count)};
  }
};

/// Traits of the two-axis tensors that layers take, owned or viewed.
template <class X>
struct LayerInput {};
template <class T, class Row, class Feature>
struct LayerInput<View<T, Row, Feature>> {
  using row = Row;
  static constexpr int features = Feature::size;
};
template <class T, class Row, class Feature>
struct LayerInput<Tensor<T, Row, Feature>> : LayerInput<View<T, Row, Feature>> {};

/// The row axis of a tensor of shape (rows, features).
template <class X>
using row_axis = typename LayerInput<X>::row;
/// Its number of features.
template <class X>
inline constexpr int feature_count = LayerInput<X>::features;

}  // namespace mllama
