// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>

#include <mllama/kernels/reference/rope.hpp>
#include <mllama/kernels/simd/batch.hpp>

#if MLLAMA_HAS_XSIMD
namespace mllama::kernels {

template <detail::VectorArch Arch, class Compute>
void rope_head(cpu<Arch, Compute>, const float* angles, std::size_t head_dim, float* x) {
  using B = detail::FloatBatch<Arch>;
  const std::size_t half = head_dim / 2;
  std::size_t i = 0;
  for (; i + B::size <= half; i += B::size) {
    const B cosine = B::load_unaligned(angles + i), sine = B::load_unaligned(angles + half + i);
    const B first = B::load_unaligned(x + i), second = B::load_unaligned(x + half + i);
    (first * cosine - second * sine).store_unaligned(x + i);
    (second * cosine + first * sine).store_unaligned(x + half + i);
  }
  for (; i < half; ++i) {
    const float cosine = angles[i], sine = angles[half + i], first = x[i], second = x[half + i];
    x[i] = first * cosine - second * sine;
    x[half + i] = second * cosine + first * sine;
  }
}

}  // namespace mllama::kernels
#endif
