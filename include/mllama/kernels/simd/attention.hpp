// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>

#include <mllama/kernels/isa/attention_task.hpp>
#include <mllama/kernels/simd/batch.hpp>

/// Attention's bodies for what the program is compiled for, where that is the best there is.

#if MLLAMA_HAS_XSIMD
namespace mllama::kernels::detail {

/// The operations on floats of an instruction set of xsimd's: see isa/shape.hpp.
template <VectorArch Arch>
struct XsimdFloats {
  using Floats = FloatBatch<Arch>;
  using Ints = xsimd::batch<std::int32_t, typename XsimdArch<Arch>::type>;
  static constexpr std::size_t bytes = Floats::size * sizeof(float), registers = vector_registers<Arch>;

  [[nodiscard]] static Floats load_floats(const float* from) { return Floats::load_unaligned(from); }
  static void store(float* to, const Floats& values) { values.store_unaligned(to); }
  [[nodiscard]] static Floats zero_floats() { return Floats(0.0F); }
  [[nodiscard]] static Floats broadcast(const float* from) { return Floats(*from); }
  [[nodiscard]] static Floats held(const Floats& values) { return detail::held(values); }
  [[nodiscard]] static Floats floats_of(F32, const float* from) { return load_floats(from); }
  template <class F, class Element>
  [[nodiscard]] static Floats floats_of(F, const Element* from) {
    alignas(buffer_alignment) float decoded[Floats::size];
    for (std::size_t i = 0; i < Floats::size; ++i) {
      if constexpr (DenseFormat<F>) {
        decoded[i] = F::decode(from[i]);
      } else {
        decoded[i] = static_cast<float>(from[i]);
      }
    }
    return Floats::load_aligned(decoded);
  }

  [[nodiscard]] static Floats add(const Floats& a, const Floats& b) { return a + b; }
  [[nodiscard]] static Floats multiply(const Floats& a, const Floats& b) { return a * b; }
  [[nodiscard]] static Floats multiply_add(const Floats& a, const Floats& b, const Floats& c) { return xsimd::fma(a, b, c); }
  [[nodiscard]] static Floats maximum(const Floats& a, const Floats& b) { return xsimd::select(a > b, a, b); }
  [[nodiscard]] static Floats power_of_two(const Floats& values) {
    return xsimd::bitwise_cast<Floats>(xsimd::bitwise_cast<Ints>(values) << 23);
  }
  [[nodiscard]] static float sum(const Floats& values) { return sum_of_lanes(values); }
  static void store_sums(float* to, const Floats* values) {
    for (std::size_t i = 0; i < 8; ++i) to[i] = sum(values[i]);
  }
};

}  // namespace mllama::kernels::detail

#define MLLAMA_TARGET
namespace mllama::kernels::isa::compiled {
#include <mllama/kernels/isa/attention.inc>
}  // namespace mllama::kernels::isa::compiled
#undef MLLAMA_TARGET
#endif
