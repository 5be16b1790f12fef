// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>

#include <mllama/kernels/activation.hpp>
#include <mllama/kernels/simd/batch.hpp>

#if MLLAMA_HAS_XSIMD
namespace mllama::kernels {

namespace detail {

/// Through erfc, which keeps the digits that 1 + erf loses for negative x.
template <class B>
B activation_value(GELU, const B& x) {
  return B(0.5F) * x * xsimd::erfc(x * B(-0.70710678118654752440F));
}
/// ½(1 + tanh u) is the sigmoid of 2u.
template <class B>
B activation_value(TanhGELU, const B& x) {
  const B u = B(0.79788456080286535588F) * xsimd::fma(B(0.044715F) * x * x, x, x);
  return x / (B(1.0F) + xsimd::exp(B(-2.0F) * u));
}
template <class B>
B activation_value(QuickGELU, const B& x) {
  return x / (B(1.0F) + xsimd::exp(B(-1.702F) * x));
}
template <class B>
B activation_value(ReLU, const B& x) {
  return xsimd::select(x > B(0.0F), x, B(0.0F));
}
template <class B>
B activation_value(SiLU, const B& x) {
  return x / (B(1.0F) + xsimd::exp(-x));
}

/// Activations that have vectors; others run through the reference body.
template <class A, class B>
concept VectorActivation = requires(const B& x) { activation_value(A{}, x); };

}  // namespace detail

template <detail::VectorArch Arch, class Compute, detail::VectorActivation<detail::FloatBatch<Arch>> A>
void activate_body(cpu<Arch, Compute>, A, float* x, std::size_t n) {
  using B = detail::FloatBatch<Arch>;
  detail::transform_row<B>(
      x, n, [](B value) { return detail::activation_value(A{}, value); }, x);
}

template <detail::VectorArch Arch, class Compute, detail::VectorActivation<detail::FloatBatch<Arch>> A>
void activate_and_multiply_body(cpu<Arch, Compute>, A, float* gate, const float* up, std::size_t n) {
  using B = detail::FloatBatch<Arch>;
  detail::transform_row<B>(
      gate, n, [](B value, B factor) { return detail::activation_value(A{}, value) * factor; }, gate, up);
}

}  // namespace mllama::kernels
#endif
