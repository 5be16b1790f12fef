// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include <mllama/kernels/isa/operands.hpp>
#include <mllama/kernels/x86/avx512.hpp>

#if MLLAMA_HAS_X86_BODIES
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push  // GCC 12 takes its own AVX-512 intrinsics for mistakes of their callers: undefined operands, masks
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wsign-conversion"
#endif
#define MLLAMA_TARGET MLLAMA_AVX512_BF16

namespace mllama::kernels::isa {

/// AVX-512 with the tiles of AMX, and their products of bfloat16.
struct Avx512Amx : Avx512Bf16 {
  static constexpr std::string_view name = Avx512AmxShape::name;
  static constexpr bool has_matrices = Avx512AmxShape::has_matrices;

  [[nodiscard]] MLLAMA_INLINE static Words interleaved(Words halves) {
    alignas(64) static constexpr auto order = [] {
      std::array<std::uint16_t, 32> words{};
      for (std::uint16_t i = 0; i < 32; ++i) words[i] = static_cast<std::uint16_t>(i % 2 * 16 + i / 2);
      return words;
    }();
    return _mm512_permutexvar_epi16(_mm512_load_si512(order.data()), halves);
  }
  using Avx512Bf16::split;
  /// The first and the second numbers of pairs.
  MLLAMA_INLINE static void split(BF16, Words pairs, Floats (&out)[2]) {
    out[0] = _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
    out[1] = _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(static_cast<int>(0xffff0000U))));
  }
  [[nodiscard]] MLLAMA_INLINE static float largest(Floats values) { return _mm512_reduce_max_ps(values); }

  /// The registers, from when one of these is made until it is gone, which is when the thread's are given back. Instructions are written
  /// out: no compiler needs to know of them, and none may reorder them.
  class Matrices {
   public:
    Matrices() noexcept {
      struct alignas(64) {
        std::uint8_t palette = 1, start = 0, reserved[14]{};
        std::uint16_t row_bytes[16]{64, 64, 64, 64, 64, 64, 64, 64};
        std::uint8_t rows[16]{16, 16, 16, 16, 16, 16, 16, 16};
      } const shape;
      asm volatile("ldtilecfg %0" ::"m"(shape));
    }
    Matrices(const Matrices&) = delete;
    Matrices& operator=(const Matrices&) = delete;
    ~Matrices() { asm volatile("tilerelease"); }

    template <int to>
    [[gnu::always_inline]] void zero() {
      asm volatile("tilezero %%tmm%c0" ::"i"(to));
    }
    template <int to>
    [[gnu::always_inline]] void load(const void* from, std::size_t stride) {
      asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(stride), "i"(to) : "memory");
    }
    template <int from>
    [[gnu::always_inline]] void store(void* to, std::size_t stride) {
      asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(stride), "i"(from) : "memory");
    }
    template <int sum, int a, int b>
    [[gnu::always_inline]] void multiply_add() {
      asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(sum), "i"(a), "i"(b));
    }
  };
};

}  // namespace mllama::kernels::isa

namespace mllama::kernels::isa::avx512_amx {
using avx512_bf16::most_few_rows, avx512_bf16::slot_scales;
#include <mllama/kernels/isa/matrices.inc>
}  // namespace mllama::kernels::isa::avx512_amx

#undef MLLAMA_TARGET
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
#endif
