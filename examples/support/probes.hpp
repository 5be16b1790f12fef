// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include <mllama/core/context.hpp>
#include <mllama/kernels/matmul.hpp>
#include <mllama/kernels/simd/batch.hpp>

#include "stopwatch.hpp"

/// What this machine can do, measured: what shares in benchmarks are of.

namespace support {

namespace peak {

/// Numbers to compute with. `changing` is another address as far as compilers know, so that nothing is computed once for all rounds.
struct Operands {
  alignas(64) std::array<std::byte, 128> bytes{};
  float* sink;

  explicit Operands(float* to) : sink(to) { bytes.fill(std::byte{1}); }
  [[nodiscard]] const void* changing() const {
    const void* address = bytes.data();
    asm volatile("" : "+r"(address)::"memory");
    return address;
  }
};

#if MLLAMA_HAS_X86_BODIES
namespace avx2 {
#define MLLAMA_TARGET MLLAMA_AVX2
#include "peak.inc"
#undef MLLAMA_TARGET
}  // namespace avx2
namespace avx_vnni {
#define MLLAMA_TARGET MLLAMA_AVX_VNNI
#include "peak.inc"
#undef MLLAMA_TARGET
}  // namespace avx_vnni
namespace avx512 {
#define MLLAMA_TARGET MLLAMA_AVX512
#include "peak.inc"
#undef MLLAMA_TARGET
}  // namespace avx512
namespace avx512_vnni {
#define MLLAMA_TARGET MLLAMA_AVX512_VNNI
#include "peak.inc"
#undef MLLAMA_TARGET
}  // namespace avx512_vnni
namespace avx512_bf16 {
#define MLLAMA_TARGET MLLAMA_AVX512_BF16
#include "peak.inc"
#undef MLLAMA_TARGET
}  // namespace avx512_bf16
#endif
#if MLLAMA_HAS_NEON_BODIES
namespace neon_dot {
#define MLLAMA_TARGET MLLAMA_NEON_DOT
#include "peak.inc"
#undef MLLAMA_TARGET
}  // namespace neon_dot
#endif

/// Of the products of matrix registers.
template <class Isa>
double matrices(const Operands&) {
  constexpr std::size_t rounds = 20000, products = 4, of_one = 2 * 16 * 16 * 32;
  typename Isa::Matrices registers;
  [&]<int... i>(std::integer_sequence<int, i...>) { (registers.template zero<i>(), ...); }(std::make_integer_sequence<int, 8>{});
  const Stopwatch watch;
  for (std::size_t i = 0; i < rounds; ++i) {
    registers.template multiply_add<0, 4, 6>();
    registers.template multiply_add<1, 4, 7>();
    registers.template multiply_add<2, 5, 6>();
    registers.template multiply_add<3, 5, 7>();
  }
  return static_cast<double>(rounds * products * of_one) / watch.seconds();
}

}  // namespace peak

/// Of all threads of a context together.
struct Limits {
  double read = 0;  ///< bytes a second, from memory
  /// Operations a second: float32, products of 16 and of 8 bits, and of bfloat16, in float32 where there are none. 0: no such bodies. With
  /// matrix registers, as many products of bfloat16 as that takes count as one: six, three and one.
  double floats = 0, words = 0, bytes = 0, bfloats = 0;

  [[nodiscard]] double operations(mllama::Precision precision) const noexcept {
    switch (precision) {
      case mllama::Precision::int16:
        return words;
      case mllama::Precision::bf16:
        return bfloats;
      case mllama::Precision::int8:
        return bytes;
      default:
        return floats;
    }
  }
};

namespace detail {

/// The sum over threads of what each does alone, at the same time; the best of some tries.
template <class Ctx, class Rate>
double rate_of_all(Ctx& ctx, Rate&& rate) {
  const unsigned threads = ctx.threads().size();
  double best = 0;
  for (int attempt = 0; attempt < 8; ++attempt) {
    std::vector<double> rates(threads);
    ctx.parallel(threads, 1, [&](std::size_t begin, std::size_t end, unsigned) {
      alignas(64) std::array<float, 16> sink{};
      const peak::Operands operands(sink.data());
      for (std::size_t i = begin; i < end; ++i) rates[i] = rate(operands);
    });
    double sum = 0;
    for (const double one : rates) sum += one;
    best = std::max(best, sum);
  }
  return best;
}

template <class Peak, bool bfloats = false, class Ctx>
void measure_peaks(Ctx& ctx, Limits& limits) {
  limits.floats = rate_of_all(ctx, Peak::floats);
  limits.words = rate_of_all(ctx, Peak::words);
  limits.bytes = rate_of_all(ctx, Peak::bytes);
  limits.bfloats = limits.floats;
  if constexpr (bfloats) limits.bfloats = rate_of_all(ctx, Peak::bfloats);
}

/// Bytes a second that all threads read from memory that no cache holds.
template <class Ctx>
double measure_read(Ctx& ctx) {
  constexpr std::size_t size = std::size_t{1} << 30U, line = 64;
  const std::vector<std::uint64_t> memory(size / sizeof(std::uint64_t), 1);
  double best = 0;
  std::uint64_t total = 0;
  for (int attempt = 0; attempt < 5; ++attempt) {
    std::vector<std::uint64_t> sums(ctx.threads().size());
    const Stopwatch watch;
    ctx.parallel(size / line, 4096 / line, [&](std::size_t begin, std::size_t end, unsigned worker) {
      const std::uint64_t* const from = memory.data();
      std::array<std::uint64_t, 8> sum{};
      for (std::size_t i = begin; i < end; ++i) {
        for (std::size_t k = 0; k < sum.size(); ++k) sum[k] += from[i * sum.size() + k];
      }
      for (const std::uint64_t one : sum) sums[worker] += one;
    });
    best = std::max(best, static_cast<double>(size) / watch.seconds());
    for (const std::uint64_t sum : sums) total += sum;
  }
  return total == 0 ? 0 : best;
}

}  // namespace detail

/// Measures in about two seconds.
template <class Ctx>
[[nodiscard]] Limits measure_limits(Ctx& ctx) {
  namespace isa = mllama::kernels::isa;
  Limits limits{.read = detail::measure_read(ctx)};
  switch (ctx.instruction_set()) {
#if MLLAMA_HAS_X86_BODIES
    case mllama::InstructionSet::avx2:
      detail::measure_peaks<peak::avx2::Peak<isa::Avx2>>(ctx, limits);
      break;
    case mllama::InstructionSet::avx_vnni:
      detail::measure_peaks<peak::avx_vnni::Peak<isa::AvxVnni>>(ctx, limits);
      break;
    case mllama::InstructionSet::avx512:
      detail::measure_peaks<peak::avx512::Peak<isa::Avx512>>(ctx, limits);
      break;
    case mllama::InstructionSet::avx512_vnni:
      detail::measure_peaks<peak::avx512_vnni::Peak<isa::Avx512Vnni>>(ctx, limits);
      break;
    case mllama::InstructionSet::avx512_bf16:
      detail::measure_peaks<peak::avx512_bf16::Peak<isa::Avx512Bf16>, true>(ctx, limits);
      break;
    case mllama::InstructionSet::avx512_amx:
      limits.bytes = limits.bfloats = detail::rate_of_all(ctx, peak::matrices<isa::Avx512Amx>);
      limits.words = limits.bfloats / 3;
      limits.floats = limits.bfloats / 6;
      break;
#endif
#if MLLAMA_HAS_NEON_BODIES
    case mllama::InstructionSet::neon_dot:
      detail::measure_peaks<peak::neon_dot::Peak<isa::NeonDot>>(ctx, limits);
      break;
#endif
    default:
      break;
  }
  return limits;
}

/// Of one thread, measured once.
[[nodiscard]] inline const Limits& limits_of_one_thread() {
  static const Limits limits = [] {
    mllama::Context<> ctx(1);
    return measure_limits(ctx);
  }();
  return limits;
}

}  // namespace support
