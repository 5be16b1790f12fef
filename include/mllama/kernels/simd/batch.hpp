// SPDX-License-Identifier: MIT
#pragma once

#include <concepts>
#include <cstddef>
#include <type_traits>
#include <utility>

#include <mllama/core/context.hpp>

/// The one header that includes xsimd. Device compilers do not parse it: there the native architecture is generic, which has no
/// vectors, and bodies fall back to the reference.

#if !defined(__CUDACC__)
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push  // GCC 12 takes the undefined operands of its own AVX-512 intrinsics for mistakes of their callers
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <xsimd/xsimd.hpp>
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
#endif

#if !defined(__CUDACC__) && !defined(XSIMD_NO_SUPPORTED_ARCHITECTURE)
#define MLLAMA_HAS_XSIMD 1
#else
#define MLLAMA_HAS_XSIMD 0
#endif

#if MLLAMA_HAS_XSIMD
namespace mllama::kernels::detail {

/// xsimd's name of an instruction set of ours.
template <class Arch>
struct XsimdArch {};
template <std::derived_from<arch::sse2> Arch>
struct XsimdArch<Arch> {
  using type = xsimd::sse2;
};
template <std::derived_from<arch::avx2> Arch>
struct XsimdArch<Arch> {
  using type = xsimd::fma3<xsimd::avx2>;
};
template <std::derived_from<arch::avx512> Arch>
struct XsimdArch<Arch> {
  using type = xsimd::avx512bw;
};
template <std::derived_from<arch::neon> Arch>
struct XsimdArch<Arch> {
#if defined(__aarch64__)
  using type = xsimd::neon64;
#else
  using type = xsimd::neon;
#endif
};

/// An instruction set with vectors that this translation unit is compiled for.
template <class Arch>
concept VectorArch = requires { typename XsimdArch<Arch>::type; } && XsimdArch<Arch>::type::supported();

template <class Arch>
using FloatBatch = xsimd::batch<float, typename XsimdArch<Arch>::type>;

/// Vector registers of an instruction set: how large a tile of accumulators may be.
template <class Arch>
inline constexpr std::size_t vector_registers =
    std::derived_from<Arch, arch::avx512> || std::derived_from<Arch, arch::neon> ? 32 : 16;

/// Calls `step` with 0, 1, … Count-1 as constants: a loop that is unrolled at every optimisation level, so that arrays of
/// accumulators stay in registers.
template <std::size_t Count, class Step>
constexpr void unroll(Step&& step) {
  [&]<std::size_t... I>(std::index_sequence<I...>) {
    (step(std::integral_constant<std::size_t, I>{}), ...);
  }(std::make_index_sequence<Count>{});
}

/// Its argument, loaded once: GCC takes a load for cheaper than a register and repeats it for every use, which halves the speed of
/// a register-tiled product.
template <class B>
[[nodiscard]] B held(B batch) {
#if defined(__GNUC__) && !defined(__clang__) && defined(__AVX512F__)
  asm("" : "+v"(batch.data));
#elif defined(__GNUC__) && !defined(__clang__) && defined(__SSE2__)
  asm("" : "+x"(batch.data));
#endif
  return batch;
}

/// Sum of the lanes, under the name that the installed xsimd has for it (found by argument, as only one of the two exists).
template <class B>
[[nodiscard]] float sum_of_lanes(const B& batch) {
  if constexpr (requires { reduce_add(batch); }) {
    return reduce_add(batch);
  } else {
    return hadd(batch);
  }
}

/// The first `count` lanes from memory, the others `rest`.
template <class B>
[[nodiscard]] B load_some(const float* from, std::size_t count, float rest = 0) {
  alignas(buffer_alignment) float lanes[B::size];
  for (std::size_t i = 0; i < B::size; ++i) lanes[i] = i < count ? from[i] : rest;
  return B::load_aligned(lanes);
}

template <class B>
void store_some(const B& batch, float* to, std::size_t count) {
  alignas(buffer_alignment) float lanes[B::size];
  batch.store_aligned(lanes);
  for (std::size_t i = 0; i < count; ++i) to[i] = lanes[i];
}

/// `to[i] = function(from[i]…)` for i < count. An element's result does not depend on its place.
template <class B, class Function, std::same_as<float>... Inputs>
void transform_row(float* to, std::size_t count, Function&& function, const Inputs*... from) {
  std::size_t i = 0;
  for (; i + B::size <= count; i += B::size) function(B::load_unaligned(from + i)...).store_unaligned(to + i);
  if (i < count) store_some(function(load_some<B>(from + i, count - i)...), to + i, count - i);
}

/// `Σ term(x[i])` for i < count, where `term(rest)` is 0. Four sums at a time: faster, and more accurate than one.
template <class B, class Term>
[[nodiscard]] float sum_row(const float* x, std::size_t count, float rest, Term&& term) {
  B sums[4] = {B(0.0F), B(0.0F), B(0.0F), B(0.0F)};
  std::size_t i = 0;
  for (; i + 4 * B::size <= count; i += 4 * B::size) {
    for (std::size_t k = 0; k < 4; ++k) sums[k] += term(B::load_unaligned(x + i + k * B::size));
  }
  for (; i + B::size <= count; i += B::size) sums[0] += term(B::load_unaligned(x + i));
  if (i < count) sums[1] += term(load_some<B>(x + i, count - i, rest));
  return sum_of_lanes((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

}  // namespace mllama::kernels::detail
#endif
