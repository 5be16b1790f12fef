// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>

#include <mllama/kernels/reference/softmax.hpp>
#include <mllama/kernels/simd/batch.hpp>

#if MLLAMA_HAS_XSIMD
namespace mllama::kernels {

template <detail::VectorArch Arch, class Compute>
void softmax_row(cpu<Arch, Compute>, float* x, std::size_t n) {
  using B = detail::FloatBatch<Arch>;
  const B most(*std::max_element(x, x + n));
  detail::transform_row<B>(
      x, n, [&](B value) { return xsimd::exp(value - most); }, x);
  const B inverse(1 / detail::sum_row<B>(x, n, 0, [](B value) { return value; }));
  detail::transform_row<B>(
      x, n, [&](B value) { return value * inverse; }, x);
}

}  // namespace mllama::kernels
#endif
