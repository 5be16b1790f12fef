// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>

#include <mllama/core/context.hpp>

namespace mllama::kernels {

inline void softmax_row(reference, float* x, std::size_t n) {
  const double most = *std::max_element(x, x + n);
  double sum = 0;
  for (std::size_t i = 0; i < n; ++i) sum += std::exp(x[i] - most);
  for (std::size_t i = 0; i < n; ++i) x[i] = static_cast<float>(std::exp(x[i] - most) / sum);
}

}  // namespace mllama::kernels
