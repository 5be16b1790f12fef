// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <cstddef>

#include <mllama/core/context.hpp>

namespace mllama::kernels {

inline void rms_norm_row(reference, const float* x, std::size_t n, const float* weight, float eps, float* y) {
  double squares = 0;
  for (std::size_t i = 0; i < n; ++i) squares += double{x[i]} * double{x[i]};
  const double factor = 1 / std::sqrt(squares / static_cast<double>(n) + double{eps});
  for (std::size_t i = 0; i < n; ++i) y[i] = static_cast<float>(x[i] * factor) * weight[i];
}

inline void layer_norm_row(reference, const float* x, std::size_t n, const float* weight, const float* bias, float eps, float* y) {
  double sum = 0, squares = 0;
  for (std::size_t i = 0; i < n; ++i) sum += x[i];
  const double mean = sum / static_cast<double>(n);
  for (std::size_t i = 0; i < n; ++i) squares += (x[i] - mean) * (x[i] - mean);
  const double factor = 1 / std::sqrt(squares / static_cast<double>(n) + double{eps});
  for (std::size_t i = 0; i < n; ++i) y[i] = static_cast<float>((x[i] - mean) * factor * weight[i] + bias[i]);
}

}  // namespace mllama::kernels
