// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>

#include <mllama/kernels/isa/operands.hpp>
#include <mllama/kernels/x86/avx2.hpp>

#if MLLAMA_HAS_X86_BODIES
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push  // GCC 12 takes its own AVX-512 intrinsics for mistakes of their callers: undefined operands, masks
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wsign-conversion"
#endif
#define MLLAMA_AVX512 __attribute__((target("avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx2,fma,f16c")))
#define MLLAMA_TARGET MLLAMA_AVX512

namespace mllama::kernels::isa {

/// AVX-512 with F, BW, CD, DQ and VL.
struct Avx512 : Avx512Shape {
  using Bytes = __m512i;
  using Words = __m512i;
  using Ints = __m512i;
  using Floats = __m512;

  [[nodiscard]] MLLAMA_INLINE static Bytes load_bytes(const void* from) { return _mm512_loadu_si512(from); }
  [[nodiscard]] MLLAMA_INLINE static Words load_words(const void* from) { return _mm512_loadu_si512(from); }
  [[nodiscard]] MLLAMA_INLINE static Floats load_floats(const void* from) { return _mm512_loadu_ps(from); }
  MLLAMA_INLINE static void store(void* to, Floats values) { _mm512_storeu_ps(to, values); }
  MLLAMA_INLINE static void store(void* to, Bytes values) { _mm512_storeu_si512(to, values); }

  template <std::size_t width>
  MLLAMA_INLINE static void load_units(const std::uint8_t* const* rows, std::size_t at, Bytes (&units)[8]) {
    __m512i pairs[8], fours[8];
    MLLAMA_UNROLL
    for (std::size_t i = 0; i < 8; i += 2) {
      const __m512i a = load_halves(rows[i] + at, rows[i + 8] + at), b = load_halves(rows[i + 1] + at, rows[i + 9] + at);
      pairs[i] = _mm512_unpacklo_epi32(a, b);
      pairs[i + 1] = _mm512_unpackhi_epi32(a, b);
    }
    MLLAMA_UNROLL
    for (std::size_t i = 0; i < 8; i += 4) {
      fours[i] = _mm512_unpacklo_epi64(pairs[i], pairs[i + 2]);
      fours[i + 1] = _mm512_unpackhi_epi64(pairs[i], pairs[i + 2]);
      fours[i + 2] = _mm512_unpacklo_epi64(pairs[i + 1], pairs[i + 3]);
      fours[i + 3] = _mm512_unpackhi_epi64(pairs[i + 1], pairs[i + 3]);
    }
    const __m512i even = _mm512_setr_epi64(0, 1, 8, 9, 4, 5, 12, 13), odd = _mm512_setr_epi64(2, 3, 10, 11, 6, 7, 14, 15);
    MLLAMA_UNROLL
    for (std::size_t i = 0; i < 4; ++i) {
      units[i] = _mm512_permutex2var_epi64(fours[i], even, fours[i + 4]);
      units[i + 4] = _mm512_permutex2var_epi64(fours[i], odd, fours[i + 4]);
    }
  }
  MLLAMA_INLINE static void split(Int8, Bytes bytes, Words (&out)[2]) {
    out[0] = _mm512_srai_epi16(_mm512_slli_epi16(bytes, 8), 8);
    out[1] = _mm512_srai_epi16(bytes, 8);
  }

  [[nodiscard]] MLLAMA_INLINE static Floats floats_of(F32, const float* from) { return _mm512_loadu_ps(from); }
  [[nodiscard]] MLLAMA_INLINE static Floats floats_of(BF16, const std::uint16_t* from) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(load_half(from)), 16));
  }
  [[nodiscard]] MLLAMA_INLINE static Floats floats_of(F16, const std::uint16_t* from) { return _mm512_cvtph_ps(load_half(from)); }
  [[nodiscard]] MLLAMA_INLINE static Floats floats_of(Int8, const std::int8_t* from) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
  }
  [[nodiscard]] MLLAMA_INLINE static Words words_of(Int8, const std::int8_t* from) { return _mm512_cvtepi8_epi16(load_half(from)); }

  [[nodiscard]] MLLAMA_INLINE static Ints zero_ints() { return _mm512_setzero_si512(); }
  [[nodiscard]] MLLAMA_INLINE static Floats zero_floats() { return _mm512_setzero_ps(); }
  [[nodiscard]] MLLAMA_INLINE static Floats broadcast(const float* from) { return _mm512_set1_ps(*from); }
  [[nodiscard]] MLLAMA_INLINE static Ints repeat_ints(const void* from) { return _mm512_set1_epi32(four_bytes(from)); }
  [[nodiscard]] MLLAMA_INLINE static Words repeat_words(const void* from) { return repeat_ints(from); }
  [[nodiscard]] MLLAMA_INLINE static Bytes repeat_bytes(const void* from) { return repeat_ints(from); }
  /// In registers: `vgatherdps` is slow on Zen 4, and on Intel's since microcode has mended it.
  struct Table {
    __m512 part[16];
  };
  [[nodiscard]] MLLAMA_INLINE static Table table(const float* from) {
    Table all;
    MLLAMA_UNROLL
    for (std::size_t i = 0; i < 16; ++i) all.part[i] = _mm512_loadu_ps(from + 16 * i);
    return all;
  }
  [[nodiscard]] MLLAMA_INLINE static Floats look_up(const Table& table, const std::uint8_t* index) {
    const __m512i at = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(index)));
    __m512 found[8];  // among 32 entries each, by the lowest five bits
    MLLAMA_UNROLL
    for (std::size_t i = 0; i < 8; ++i) found[i] = _mm512_permutex2var_ps(table.part[2 * i], at, table.part[2 * i + 1]);
    MLLAMA_UNROLL
    for (std::size_t half = 1; half < 8; half *= 2) {
      const __mmask16 upper = _mm512_test_epi32_mask(at, _mm512_set1_epi32(static_cast<int>(32 * half)));
      MLLAMA_UNROLL
      for (std::size_t i = 0; i < 8; i += 2 * half) found[i] = _mm512_mask_blend_ps(upper, found[i], found[i + half]);
    }
    return found[0];
  }
  template <class Vector>
  [[nodiscard]] MLLAMA_INLINE static Vector held(Vector values) {
    asm("" : "+v"(values));
    return values;
  }
  [[nodiscard]] MLLAMA_INLINE static Floats scales(const float* from) {
    const __m128i both = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from));
    const __m512i half = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
    return _mm512_castsi512_ps(_mm512_permutexvar_epi32(half, _mm512_castsi128_si512(both)));
  }

  /// Codebooks: permutations of words and dwords look at the lowest five and four bits of an index only, and need no masks.
  struct Bytes16 {
    __m512i entries;
  };
  struct Words16 {
    __m512i entries;
  };
  struct Floats16 {
    __m512 entries;
  };
  [[nodiscard]] MLLAMA_INLINE static Bytes16 book(const ByteBook& entries) {
    return {_mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(entries.data())))};
  }
  [[nodiscard]] MLLAMA_INLINE static Words16 book(const WordBook& entries) {
    return {_mm512_broadcast_i64x4(load_half(entries.data()))};
  }
  [[nodiscard]] MLLAMA_INLINE static Floats16 book(const FloatBook& entries) { return {_mm512_loadu_ps(entries.data())}; }

  [[nodiscard]] MLLAMA_INLINE static Floats16 short_book(const FloatBook& entries) { return book(entries); }

  MLLAMA_INLINE static void decode(const Bytes16& book, Bytes codes, Bytes (&out)[2]) {
    const __m512i nibble = _mm512_set1_epi8(15);
    out[0] = _mm512_shuffle_epi8(book.entries, _mm512_and_si512(codes, nibble));
    out[1] = _mm512_shuffle_epi8(book.entries, _mm512_and_si512(_mm512_srli_epi16(codes, 4), nibble));
  }
  MLLAMA_INLINE static void decode(const Words16& book, Bytes codes, Words (&out)[4]) {
    out[0] = _mm512_permutexvar_epi16(codes, book.entries);
    out[1] = _mm512_permutexvar_epi16(_mm512_srli_epi16(codes, 4), book.entries);
    out[2] = _mm512_permutexvar_epi16(_mm512_srli_epi16(codes, 8), book.entries);
    out[3] = _mm512_permutexvar_epi16(_mm512_srli_epi16(codes, 12), book.entries);
  }
  MLLAMA_INLINE static void decode(const Floats16& book, Bytes codes, std::size_t half, Floats (&out)[4]) {
    if (half != 0) codes = _mm512_srli_epi32(codes, 16);
    out[0] = _mm512_permutexvar_ps(codes, book.entries);
    out[1] = _mm512_permutexvar_ps(_mm512_srli_epi32(codes, 4), book.entries);
    out[2] = _mm512_permutexvar_ps(_mm512_srli_epi32(codes, 8), book.entries);
    out[3] = _mm512_permutexvar_ps(_mm512_srli_epi32(codes, 12), book.entries);
  }

  [[nodiscard]] MLLAMA_INLINE static Ints multiply_words(Words a, Words b) { return _mm512_madd_epi16(a, b); }
  [[nodiscard]] MLLAMA_INLINE static Ints multiply_bytes(Bytes a, Bytes b) {
    return multiply_words(_mm512_maddubs_epi16(a, b), _mm512_set1_epi16(1));
  }
  [[nodiscard]] MLLAMA_INLINE static Ints dot_words(Ints sum, Words a, Words b) { return added(sum, multiply_words(a, b)); }
  [[nodiscard]] MLLAMA_INLINE static Ints dot_bytes(Ints sum, Bytes a, Bytes b) { return added(sum, multiply_bytes(a, b)); }

  [[nodiscard]] MLLAMA_INLINE static Floats to_floats(Ints values) { return _mm512_cvtepi32_ps(values); }
  [[nodiscard]] MLLAMA_INLINE static Words word_pairs(Floats first, Floats second) {
    return _mm512_mask_blend_epi16(0xaaaaaaaa, _mm512_cvtps_epi32(first), _mm512_slli_epi32(_mm512_cvtps_epi32(second), 16));
  }
  [[nodiscard]] MLLAMA_INLINE static Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
  [[nodiscard]] MLLAMA_INLINE static Floats multiply(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
  [[nodiscard]] MLLAMA_INLINE static Floats multiply_add(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
  [[nodiscard]] MLLAMA_INLINE static Floats maximum(Floats a, Floats b) { return _mm512_max_ps(a, b); }
  [[nodiscard]] MLLAMA_INLINE static Floats power_of_two(Floats values) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(values), 23));
  }
  MLLAMA_INLINE static void store_sums(float* to, const Floats* values) {
    __m512 halves[4], quarters[2];
    MLLAMA_UNROLL
    for (std::size_t i = 0; i < 4; ++i) halves[i] = folded<0x44, 0xee>(values[i], values[i + 4]);
    MLLAMA_UNROLL
    for (std::size_t i = 0; i < 2; ++i) quarters[i] = folded<0x88, 0xdd>(halves[i], halves[i + 2]);
    // A quarter is of values 0, 4, 2, 6, or of 1, 5, 3, 7.
    const __m512 pairs =
        _mm512_add_ps(_mm512_shuffle_ps(quarters[0], quarters[1], 0x88), _mm512_shuffle_ps(quarters[0], quarters[1], 0xdd));
    const __m512 sums = _mm512_add_ps(pairs, _mm512_permute_ps(pairs, 0xb1));
    const __m512i order = _mm512_setr_epi32(0, 2, 8, 10, 4, 6, 12, 14, 0, 0, 0, 0, 0, 0, 0, 0);
    _mm256_storeu_ps(to, _mm512_castps512_ps256(_mm512_permutexvar_ps(order, sums)));
  }
  [[nodiscard]] MLLAMA_INLINE static float sum(Floats values) {
    const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(values), _mm512_extractf32x8_ps(values, 1));
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
  }

 private:
  template <int first, int last>
  [[nodiscard]] MLLAMA_INLINE static __m512 folded(Floats a, Floats b) {
    return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, first), _mm512_shuffle_f32x4(a, b, last));
  }
  [[nodiscard]] MLLAMA_INLINE static __m256i load_half(const void* from) {
    return _mm256_loadu_si256(static_cast<const __m256i*>(from));
  }
  [[nodiscard]] MLLAMA_INLINE static __m512i added(__m512i sum, __m512i values) {
#if MLLAMA_IN_PLACE
    asm("vpaddd %1, %0, %0" : "+v"(sum) : "v"(values));
    return sum;
#else
    return _mm512_add_epi32(sum, values);
#endif
  }
  [[nodiscard]] MLLAMA_INLINE static __m512i load_halves(const void* low, const void* high) {
    return _mm512_inserti64x4(_mm512_castsi256_si512(load_half(low)), load_half(high), 1);
  }
};

}  // namespace mllama::kernels::isa

namespace mllama::kernels::isa::avx512 {
#include <mllama/kernels/isa/bodies.inc>
}  // namespace mllama::kernels::isa::avx512

#undef MLLAMA_TARGET
#define MLLAMA_AVX512_VNNI __attribute__((target("avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")))
#define MLLAMA_TARGET MLLAMA_AVX512_VNNI

namespace mllama::kernels::isa {

/// The same with dot products of integers, which do not saturate.
struct Avx512Vnni : Avx512 {
  static constexpr std::string_view name = Avx512VnniShape::name;
  static constexpr int highest = Avx512VnniShape::highest;

#if MLLAMA_IN_PLACE
  [[nodiscard]] MLLAMA_INLINE static Ints dot_words(Ints sum, Words a, Words b) {
    asm("vpdpwssd %2, %1, %0" : "+v"(sum) : "v"(a), "vm"(b));
    return sum;
  }
  [[nodiscard]] MLLAMA_INLINE static Ints dot_bytes(Ints sum, Bytes a, Bytes b) {
    asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(a), "vm"(b));
    return sum;
  }
#else
  [[nodiscard]] MLLAMA_INLINE static Ints dot_words(Ints sum, Words a, Words b) { return _mm512_dpwssd_epi32(sum, a, b); }
  [[nodiscard]] MLLAMA_INLINE static Ints dot_bytes(Ints sum, Bytes a, Bytes b) { return _mm512_dpbusd_epi32(sum, a, b); }
#endif
  [[nodiscard]] MLLAMA_INLINE static Ints multiply_words(Words a, Words b) { return dot_words(zero_ints(), a, b); }
  [[nodiscard]] MLLAMA_INLINE static Ints multiply_bytes(Bytes a, Bytes b) { return dot_bytes(zero_ints(), a, b); }
};

}  // namespace mllama::kernels::isa

namespace mllama::kernels::isa::avx512_vnni {
#include <mllama/kernels/isa/bodies.inc>
}  // namespace mllama::kernels::isa::avx512_vnni

#undef MLLAMA_TARGET
#define MLLAMA_AVX512_BF16 \
  __attribute__((target("avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512vnni,avx512bf16,avx2,fma,f16c")))
#define MLLAMA_TARGET MLLAMA_AVX512_BF16

namespace mllama::kernels::isa {

/// The same with dot products of bfloat16. In each lane, the odd ones are multiplied and added to the sum, then the even ones, both
/// rounded to the nearest; numbers below the normal ones count as zeros.
struct Avx512Bf16 : Avx512Vnni {
  static constexpr std::string_view name = Avx512Bf16Shape::name;
  static constexpr bool bfloats = Avx512Bf16Shape::bfloats;

#if defined(__clang__)  // version 16 breaks down over vectors of its type for bfloat16
  [[nodiscard]] MLLAMA_INLINE static Floats dot_bfloats(Floats sum, Words a, Words b) {
    asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
    return sum;
  }
  /// The nearest ones, of `first` in the lower half.
  [[nodiscard]] MLLAMA_INLINE static Words bfloats_of(Floats first, Floats second) {
    Words words;
    asm("vcvtne2ps2bf16 %2, %1, %0" : "=v"(words) : "v"(second), "v"(first));
    return words;
  }
#else
#if MLLAMA_IN_PLACE
  [[nodiscard]] MLLAMA_INLINE static Floats dot_bfloats(Floats sum, Words a, Words b) {
    asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(a), "vm"(b));
    return sum;
  }
#else
  [[nodiscard]] MLLAMA_INLINE static Floats dot_bfloats(Floats sum, Words a, Words b) {
    return _mm512_dpbf16_ps(sum, __builtin_bit_cast(__m512bh, a), __builtin_bit_cast(__m512bh, b));
  }
#endif
  /// The nearest ones, of `first` in the lower half.
  [[nodiscard]] MLLAMA_INLINE static Words bfloats_of(Floats first, Floats second) {
    return __builtin_bit_cast(Words, _mm512_cvtne2ps_pbh(second, first));
  }
#endif
};

}  // namespace mllama::kernels::isa

namespace mllama::kernels::isa::avx512_bf16 {
#include <mllama/kernels/isa/bodies.inc>
}  // namespace mllama::kernels::isa::avx512_bf16

#undef MLLAMA_TARGET
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
#endif
