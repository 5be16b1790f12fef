// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <span>

#include <mllama/core/tensor.hpp>

namespace mllama_test {

/// Sums in another order differ in their last bits: what tests of rearranged computations allow, of max |a - b| / max |b|.
inline constexpr double reordered = 4e-6;

inline void fill_random(std::span<float> out, std::uint32_t seed) {
  std::minstd_rand random(seed + 1);
  for (float& value : out) value = static_cast<float>(random() % 4096U) / 2048 - 1;
}

/// Numbers in [-1, 1).
template <class Row, int N>
mllama::Tensor<float, Row, mllama::Dim<N>> random_rows(std::size_t rows, std::uint32_t seed) {
  mllama::Tensor<float, Row, mllama::Dim<N>> x({rows});
  fill_random(x.flat(), seed);
  return x;
}

template <class T, mllama::Axis... Axes>
mllama::Tensor<T, Axes...> copy(const mllama::Tensor<T, Axes...>& from) {
  mllama::Tensor<T, Axes...> to(from.view().run_time_lengths());
  std::ranges::copy(from.flat(), to.data());
  return to;
}

inline bool same(std::span<const float> a, std::span<const float> b) { return std::ranges::equal(a, b); }

/// max |a - b| / max |b|
inline double difference(std::span<const float> a, std::span<const float> b) {
  if (a.size() != b.size()) return HUGE_VAL;
  double most = 0, largest = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (!std::isfinite(a[i])) return HUGE_VAL;
    most = std::max(most, std::abs(double{a[i]} - double{b[i]}));
    largest = std::max(largest, std::abs(double{b[i]}));
  }
  return largest == 0 ? most : most / largest;
}

}  // namespace mllama_test
