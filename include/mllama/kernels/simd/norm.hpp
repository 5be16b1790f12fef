// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <cstddef>

#include <mllama/kernels/reference/norm.hpp>
#include <mllama/kernels/simd/batch.hpp>

#if MLLAMA_HAS_XSIMD
namespace mllama::kernels {

template <detail::VectorArch Arch, class Compute>
void rms_norm_row(cpu<Arch, Compute>, const float* x, std::size_t n, const float* weight, float eps, float* y) {
  using B = detail::FloatBatch<Arch>;
  const float squares = detail::sum_row<B>(x, n, 0, [](B value) { return value * value; });
  const B factor(1 / std::sqrt(squares / static_cast<float>(n) + eps));
  detail::transform_row<B>(
      y, n, [&](B value, B scale) { return value * factor * scale; }, x, weight);
}

template <detail::VectorArch Arch, class Compute>
void layer_norm_row(cpu<Arch, Compute>, const float* x, std::size_t n, const float* weight, const float* bias, float eps,
                    float* y) {
  using B = detail::FloatBatch<Arch>;
  const float mean = detail::sum_row<B>(x, n, 0, [](B value) { return value; }) / static_cast<float>(n);
  const B middle(mean);
  const float squares = detail::sum_row<B>(x, n, mean, [&](B value) { return (value - middle) * (value - middle); });
  const B factor(1 / std::sqrt(squares / static_cast<float>(n) + eps));
  detail::transform_row<B>(
      y, n, [&](B value, B scale, B offset) { return xsimd::fma((value - middle) * factor, scale, offset); }, x, weight, bias);
}

}  // namespace mllama::kernels
#endif
