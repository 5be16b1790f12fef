// SPDX-License-Identifier: MIT
#pragma once

#include <mllama/kernels/isa/operands.hpp>
#include <mllama/kernels/x86/avx2.hpp>

#if MLLAMA_HAS_X86_BODIES
#define MLLAMA_AVX_VNNI __attribute__((target("avx2,fma,f16c,avxvnni")))
#define MLLAMA_TARGET MLLAMA_AVX_VNNI

namespace mllama::kernels::isa {

/// AVX2 with dot products of integers, which do not saturate.
struct AvxVnni : Avx2 {
  static constexpr std::string_view name = AvxVnniShape::name;
  static constexpr int highest = AvxVnniShape::highest;

#if MLLAMA_IN_PLACE
  [[nodiscard]] MLLAMA_INLINE static Ints dot_words(Ints sum, Words a, Words b) {
    asm("%{vex%} vpdpwssd %2, %1, %0" : "+x"(sum) : "x"(a), "xm"(b));
    return sum;
  }
  [[nodiscard]] MLLAMA_INLINE static Ints dot_bytes(Ints sum, Bytes a, Bytes b) {
    asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(a), "xm"(b));
    return sum;
  }
#else
  [[nodiscard]] MLLAMA_INLINE static Ints dot_words(Ints sum, Words a, Words b) { return _mm256_dpwssd_avx_epi32(sum, a, b); }
  [[nodiscard]] MLLAMA_INLINE static Ints dot_bytes(Ints sum, Bytes a, Bytes b) { return _mm256_dpbusd_avx_epi32(sum, a, b); }
#endif
  [[nodiscard]] MLLAMA_INLINE static Ints multiply_words(Words a, Words b) { return dot_words(zero_ints(), a, b); }
  [[nodiscard]] MLLAMA_INLINE static Ints multiply_bytes(Bytes a, Bytes b) { return dot_bytes(zero_ints(), a, b); }
};

}  // namespace mllama::kernels::isa

namespace mllama::kernels::isa::avx_vnni {
#include <mllama/kernels/isa/bodies.inc>
}  // namespace mllama::kernels::isa::avx_vnni

#undef MLLAMA_TARGET
#endif
