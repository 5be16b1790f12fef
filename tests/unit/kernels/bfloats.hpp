// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>

#include <mllama/core/format.hpp>
#include <mllama/core/rounding.hpp>

#include "operands.hpp"
#include "weights.hpp"

/// Products of operands that are rounded to bfloat16, in double, and how far sums in float32 may be from them.

namespace mllama_test {

[[nodiscard]] inline double bfloat_of(float number) { return double{BF16::decode(BF16::encode(number))}; }

/// What bodies round to bfloat16: a codebook, or the weights that it makes with its scales.
enum class Rounded { codebooks, weights };

/// Element `i` of row `row` as it is multiplied.
template <class F>
[[nodiscard]] double rounded_weight(const Weights<F>& w, std::size_t row, std::size_t i, [[maybe_unused]] Rounded what) {
  const std::size_t element = row * w.columns + i;
  if constexpr (DenseFormat<F>) {
    return bfloat_of(F::decode(w.data[element]));
  } else if constexpr (RowFormat<F>) {
    return static_cast<double>(w.codes[element]) * double{w.scales[row] * F::step};
  } else {
    const unsigned byte = w.codes[element / 2];
    const float entry = F::table[element % 2 == 0 ? byte >> 4U : byte & 15U], scale = w.scale(element / w.block);
    return what == Rounded::weights ? bfloat_of(mllama::rounded(entry * scale)) : bfloat_of(entry) * double{scale};
  }
}

struct Product {
  double exact, most;  ///< `most`: of the difference
};

/// In float32 a product is rounded `m` times at most: in sums of `lane` products in a lane, those of slots, those of lanes and of
/// chunks, and where it is scaled. A sum of products is then exact to `γ Σ|x||w|`, `γ = m u / (1 - m u)`, `u = 2^-24` (Higham,
/// Accuracy and Stability of Numerical Algorithms, section 3.1). Products and sums below 2^-126 may count as zeros, times a scale.
template <class F>
[[nodiscard]] Product rounded_product(const Grid& x, const Weights<F>& w, std::size_t row, std::size_t output, std::size_t lane,
                                      Rounded what) {
  double sum = 0, magnitudes = 0, largest = 1;
  for (std::size_t i = 0; i < w.columns; ++i) {
    const double weight = rounded_weight(w, output, i, what), number = bfloat_of(x.matrix()[row][i]);
    sum += number * weight;
    magnitudes += std::abs(number * weight);
    largest = std::max({largest, std::abs(weight), std::abs(number)});
  }
  const auto n = static_cast<double>(w.columns);
  const double m = static_cast<double>(std::min(lane, w.columns)) + n / 64 + 16, u = 0x1p-24;
  return {sum, m * u / (1 - m * u) * magnitudes + 4 * n * largest * 0x1p-126};
}

/// Elements of `found`, the products of x and w, that are further from their exact number than they may be. Where operands are not
/// finite, neither is a product: which of infinity and not-a-number depends on what counts as zero.
template <class F>
[[nodiscard]] std::size_t wrong_products(const Grid& x, const Weights<F>& w, const Grid& found, std::size_t lane,
                                         Rounded what = Rounded::codebooks) {
  std::size_t wrong = 0;
  for (std::size_t r = 0; r < x.matrix().rows; ++r) {
    for (std::size_t o = 0; o < w.rows; ++o) {
      const Product product = rounded_product(x, w, r, o, lane, what);
      const double number = double{found.matrix()[r][o]};
      if (std::isfinite(product.exact)) {
        wrong += !(std::abs(number - product.exact) <= product.most);
      } else {
        wrong += std::isfinite(number);
      }
    }
  }
  return wrong;
}

}  // namespace mllama_test
