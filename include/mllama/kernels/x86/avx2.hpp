// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>

#include <mllama/kernels/isa/operands.hpp>

#if defined(__x86_64__) && !defined(__CUDACC__)
#define MLLAMA_HAS_X86_BODIES 1
#else
#define MLLAMA_HAS_X86_BODIES 0
#endif

#if MLLAMA_HAS_X86_BODIES
#include <immintrin.h>

#define MLLAMA_AVX2 __attribute__((target("avx2,fma,f16c")))
#define MLLAMA_TARGET MLLAMA_AVX2

/// Whether sums of integers are kept in their registers by hand.
#if defined(__clang__)
#define MLLAMA_IN_PLACE 0
#else
#define MLLAMA_IN_PLACE 1
#endif

namespace mllama::kernels::isa {

/// AVX2 with FMA and F16C. The functions name their target themselves: a program for any x86-64 has them.
struct Avx2 : Avx2Shape {
  using Bytes = __m256i;
  using Words = __m256i;
  using Ints = __m256i;
  using Floats = __m256;

  [[nodiscard]] MLLAMA_INLINE static Bytes load_bytes(const void* from) {
    return _mm256_loadu_si256(static_cast<const __m256i*>(from));
  }
  [[nodiscard]] MLLAMA_INLINE static Words load_words(const void* from) { return load_bytes(from); }
  [[nodiscard]] MLLAMA_INLINE static Floats load_floats(const void* from) {
    return _mm256_loadu_ps(static_cast<const float*>(from));
  }
  MLLAMA_INLINE static void store(void* to, Floats values) { _mm256_storeu_ps(static_cast<float*>(to), values); }
  MLLAMA_INLINE static void store(void* to, Bytes values) { _mm256_storeu_si256(static_cast<__m256i*>(to), values); }

  /// The codes of a slot of eight rows from byte `at` on: a unit of each row in every vector.
  template <std::size_t width>
  MLLAMA_INLINE static void load_units(const std::uint8_t* const* rows, std::size_t at, Bytes (&units)[8]) {
    __m256i pairs[8], fours[8];
    MLLAMA_UNROLL
    for (std::size_t i = 0; i < 8; i += 2) {
      const __m256i a = load_bytes(rows[i] + at), b = load_bytes(rows[i + 1] + at);
      pairs[i] = _mm256_unpacklo_epi32(a, b);
      pairs[i + 1] = _mm256_unpackhi_epi32(a, b);
    }
    MLLAMA_UNROLL
    for (std::size_t i = 0; i < 8; i += 4) {
      fours[i] = _mm256_unpacklo_epi64(pairs[i], pairs[i + 2]);
      fours[i + 1] = _mm256_unpackhi_epi64(pairs[i], pairs[i + 2]);
      fours[i + 2] = _mm256_unpacklo_epi64(pairs[i + 1], pairs[i + 3]);
      fours[i + 3] = _mm256_unpackhi_epi64(pairs[i + 1], pairs[i + 3]);
    }
    MLLAMA_UNROLL
    for (std::size_t i = 0; i < 4; ++i) {
      units[i] = in_order<width>(_mm256_permute2x128_si256(fours[i], fours[i + 4], 0x20));
      units[i + 4] = in_order<width>(_mm256_permute2x128_si256(fours[i], fours[i + 4], 0x31));
    }
  }
  /// Bytes of a vector as words: the even ones, and the odd ones.
  MLLAMA_INLINE static void split(Int8, Bytes bytes, Words (&out)[2]) {
    out[0] = _mm256_srai_epi16(_mm256_slli_epi16(bytes, 8), 8);
    out[1] = _mm256_srai_epi16(bytes, 8);
  }

  [[nodiscard]] MLLAMA_INLINE static Floats floats_of(F32, const float* from) { return _mm256_loadu_ps(from); }
  [[nodiscard]] MLLAMA_INLINE static Floats floats_of(BF16, const std::uint16_t* from) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load_half(from)), 16));
  }
  [[nodiscard]] MLLAMA_INLINE static Floats floats_of(F16, const std::uint16_t* from) { return _mm256_cvtph_ps(load_half(from)); }
  [[nodiscard]] MLLAMA_INLINE static Floats floats_of(Int8, const std::int8_t* from) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from))));
  }
  [[nodiscard]] MLLAMA_INLINE static Words words_of(Int8, const std::int8_t* from) { return _mm256_cvtepi8_epi16(load_half(from)); }

  [[nodiscard]] MLLAMA_INLINE static Ints zero_ints() { return _mm256_setzero_si256(); }
  [[nodiscard]] MLLAMA_INLINE static Floats zero_floats() { return _mm256_setzero_ps(); }
  [[nodiscard]] MLLAMA_INLINE static Floats broadcast(const float* from) { return _mm256_broadcast_ss(from); }
  /// An integer, two words or four bytes, in every lane.
  [[nodiscard]] MLLAMA_INLINE static Ints repeat_ints(const void* from) { return _mm256_set1_epi32(four_bytes(from)); }
  [[nodiscard]] MLLAMA_INLINE static Words repeat_words(const void* from) { return repeat_ints(from); }
  [[nodiscard]] MLLAMA_INLINE static Bytes repeat_bytes(const void* from) { return repeat_ints(from); }
  /// A table of 256 numbers, and `table[index[i]]` in lane i. Loads of single lanes are faster than `vgatherdps` is.
  using Table = const float*;
  [[nodiscard]] MLLAMA_INLINE static Table table(const float* from) { return from; }
  [[nodiscard]] MLLAMA_INLINE static Floats look_up(Table table, const std::uint8_t* index) {
    return _mm256_setr_ps(table[index[0]], table[index[1]], table[index[2]], table[index[3]], table[index[4]], table[index[5]],
                          table[index[6]], table[index[7]]);
  }
  /// Its argument, loaded once: GCC takes a load for cheaper than a register, and repeats it for every use.
  template <class Vector>
  [[nodiscard]] MLLAMA_INLINE static Vector held(Vector values) {
    asm("" : "+x"(values));
    return values;
  }
  /// Scales of the slots of a step.
  [[nodiscard]] MLLAMA_INLINE static Floats scales(const float* from) { return broadcast(from); }

  /// Codebooks: the bytes of their entries, in planes. `vpermps` would look floats up without planes, but needs two look-ups and a
  /// blend, and is slow on Zen 3.
  struct Bytes16 {
    __m256i entries;
  };
  struct Words16 {
    __m256i plane[2];
  };
  struct Floats16 {
    __m256i plane[4];
  };
  struct Bfloats16 {
    Words16 upper;
  };
  [[nodiscard]] MLLAMA_INLINE static Bytes16 book(const ByteBook& entries) { return {twice(entries)}; }
  [[nodiscard]] MLLAMA_INLINE static Words16 book(const WordBook& entries) {
    return {{twice(plane(entries, 0)), twice(plane(entries, 1))}};
  }
  [[nodiscard]] MLLAMA_INLINE static Floats16 book(const FloatBook& entries) {
    return {{twice(plane(entries, 0)), twice(plane(entries, 1)), twice(plane(entries, 2)), twice(plane(entries, 3))}};
  }

  /// Of floats whose lower halves are zero.
  [[nodiscard]] MLLAMA_INLINE static Bfloats16 short_book(const FloatBook& entries) {
    return {{{twice(plane(entries, 2)), twice(plane(entries, 3))}}};
  }

  MLLAMA_INLINE static void decode(const Bytes16& book, Bytes codes, Bytes (&out)[2]) {
    out[0] = _mm256_shuffle_epi8(book.entries, high_nibbles(codes));
    out[1] = _mm256_shuffle_epi8(book.entries, low_nibbles(codes));
  }
  MLLAMA_INLINE static void decode(const Words16& book, Bytes codes, Words (&out)[4]) {
    interleave(book, high_nibbles(codes), out[0], out[1]);
    interleave(book, low_nibbles(codes), out[2], out[3]);
  }
  MLLAMA_INLINE static void decode(const Floats16& book, Bytes codes, std::size_t half, Floats (&out)[4]) {
    const __m256i code = half == 0 ? high_nibbles(codes) : low_nibbles(codes);
    __m256i low[2], high[2];  // bytes 0 and 1, 2 and 3 of the first and of the last eight codes of 16
    interleave({{book.plane[0], book.plane[1]}}, code, low[0], low[1]);
    interleave({{book.plane[2], book.plane[3]}}, code, high[0], high[1]);
    MLLAMA_UNROLL
    for (std::size_t i = 0; i < 2; ++i) {
      out[2 * i] = _mm256_castsi256_ps(_mm256_unpacklo_epi16(low[i], high[i]));
      out[2 * i + 1] = _mm256_castsi256_ps(_mm256_unpackhi_epi16(low[i], high[i]));
    }
  }

  MLLAMA_INLINE static void decode(const Bfloats16& book, Bytes codes, std::size_t half, Floats (&out)[4]) {
    __m256i high[2];
    interleave(book.upper, half == 0 ? high_nibbles(codes) : low_nibbles(codes), high[0], high[1]);
    MLLAMA_UNROLL
    for (std::size_t i = 0; i < 2; ++i) {
      out[2 * i] = _mm256_castsi256_ps(_mm256_unpacklo_epi16(_mm256_setzero_si256(), high[i]));
      out[2 * i + 1] = _mm256_castsi256_ps(_mm256_unpackhi_epi16(_mm256_setzero_si256(), high[i]));
    }
  }

  /// Sums of products that are neighbours in a lane, and the same added to another sum.
  [[nodiscard]] MLLAMA_INLINE static Ints multiply_words(Words a, Words b) { return _mm256_madd_epi16(a, b); }
  [[nodiscard]] MLLAMA_INLINE static Ints multiply_bytes(Bytes a, Bytes b) {
    return multiply_words(_mm256_maddubs_epi16(a, b), _mm256_set1_epi16(1));
  }
  [[nodiscard]] MLLAMA_INLINE static Ints dot_words(Ints sum, Words a, Words b) { return added(sum, multiply_words(a, b)); }
  [[nodiscard]] MLLAMA_INLINE static Ints dot_bytes(Ints sum, Bytes a, Bytes b) { return added(sum, multiply_bytes(a, b)); }

  [[nodiscard]] MLLAMA_INLINE static Floats to_floats(Ints values) { return _mm256_cvtepi32_ps(values); }
  /// The nearest words, of `first` in the lower half of a lane. Numbers that are not in a word have any.
  [[nodiscard]] MLLAMA_INLINE static Words word_pairs(Floats first, Floats second) {
    return _mm256_blend_epi16(_mm256_cvtps_epi32(first), _mm256_slli_epi32(_mm256_cvtps_epi32(second), 16), 0xaa);
  }
  [[nodiscard]] MLLAMA_INLINE static Floats add(Floats a, Floats b) { return _mm256_add_ps(a, b); }
  [[nodiscard]] MLLAMA_INLINE static Floats multiply(Floats a, Floats b) { return _mm256_mul_ps(a, b); }
  [[nodiscard]] MLLAMA_INLINE static Floats multiply_add(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
  /// The larger one; b if one is not a number.
  [[nodiscard]] MLLAMA_INLINE static Floats maximum(Floats a, Floats b) { return _mm256_max_ps(a, b); }
  /// 2^n of 1.5 · 2^23 + 127 + n, 0 for n = -127.
  [[nodiscard]] MLLAMA_INLINE static Floats power_of_two(Floats values) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(values), 23));
  }
  /// Sums of the lanes of eight vectors: halves until four lanes are left, then neighbours.
  MLLAMA_INLINE static void store_sums(float* to, const Floats* values) {
    __m256 halves[4];
    MLLAMA_UNROLL
    for (std::size_t i = 0; i < 4; ++i) {
      halves[i] = _mm256_add_ps(_mm256_permute2f128_ps(values[i], values[i + 4], 0x20),
                                _mm256_permute2f128_ps(values[i], values[i + 4], 0x31));
    }
    const __m256 first = _mm256_hadd_ps(halves[0], halves[1]), last = _mm256_hadd_ps(halves[2], halves[3]);
    _mm256_storeu_ps(to, _mm256_hadd_ps(first, last));
  }
  [[nodiscard]] MLLAMA_INLINE static float sum(Floats values) {
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(values), _mm256_extractf128_ps(values, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
  }

 private:
  [[nodiscard]] MLLAMA_INLINE static __m128i load_half(const void* from) {
    return _mm_loadu_si128(static_cast<const __m128i*>(from));
  }
  [[nodiscard]] MLLAMA_INLINE static __m256i low_nibbles(Bytes codes) { return _mm256_and_si256(codes, _mm256_set1_epi8(15)); }
  [[nodiscard]] MLLAMA_INLINE static __m256i high_nibbles(Bytes codes) { return low_nibbles(_mm256_srli_epi16(codes, 4)); }

  /// `sum + values` in the register of `sum`: GCC 12 copies accumulators from register to register, and spills them.
  [[nodiscard]] MLLAMA_INLINE static __m256i added(__m256i sum, __m256i values) {
#if MLLAMA_IN_PLACE
    asm("vpaddd %1, %0, %0" : "+x"(sum) : "x"(values));
    return sum;
#else
    return _mm256_add_epi32(sum, values);
#endif
  }
  /// Puts the bytes of units where decoding them to elements of `width` bytes leaves each row in its lane.
  template <std::size_t width>
  [[nodiscard]] MLLAMA_INLINE static __m256i in_order(__m256i units) {
    if constexpr (width == 1) return units;
    const __m128i order = _mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
    return _mm256_shuffle_epi8(units, _mm256_broadcastsi128_si256(order));
  }
  [[nodiscard]] MLLAMA_INLINE static __m256i twice(const ByteBook& entries) {
    return _mm256_broadcastsi128_si256(load_half(entries.data()));
  }
  /// Words looked up in two planes: for the first and for the last eight codes of each 16.
  MLLAMA_INLINE static void interleave(const Words16& book, __m256i code, __m256i& first, __m256i& last) {
    const __m256i low = _mm256_shuffle_epi8(book.plane[0], code), high = _mm256_shuffle_epi8(book.plane[1], code);
    first = _mm256_unpacklo_epi8(low, high);
    last = _mm256_unpackhi_epi8(low, high);
  }
};

}  // namespace mllama::kernels::isa

namespace mllama::kernels::isa::avx2 {
#include <mllama/kernels/isa/bodies.inc>
}  // namespace mllama::kernels::isa::avx2

#undef MLLAMA_TARGET
#endif
