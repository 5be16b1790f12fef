// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>

#include <mllama/core/context.hpp>

namespace mllama::kernels {

inline void rope_head(reference, const float* angles, std::size_t head_dim, float* x) {
  const std::size_t half = head_dim / 2;
  for (std::size_t i = 0; i < half; ++i) {
    const float cosine = angles[i], sine = angles[half + i], first = x[i], second = x[half + i];
    x[i] = first * cosine - second * sine;
    x[half + i] = second * cosine + first * sine;
  }
}

}  // namespace mllama::kernels
