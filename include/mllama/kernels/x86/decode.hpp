// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

#include <mllama/core/format.hpp>

#if defined(__AVX512F__) || defined(__AVX2__) || defined(__F16C__)
#include <immintrin.h>
#endif

/// Decoding of 16-bit floats; and of 4-bit codes with instructions that xsimd cannot say: a table of 16 floats in one AVX-512
/// register, or its four byte planes in AVX2 registers (`vpermps` needs two look-ups and a blend there, and is slow before Zen 4).

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push  // GCC 12 takes the undefined operands of its own AVX-512 intrinsics for mistakes of their callers
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

namespace mllama::kernels::detail {

/// Decodes `count` bfloat16 or binary16 numbers. Returns how many it decoded; the rest is the caller's.
inline std::size_t decode_x86(BF16, [[maybe_unused]] const std::uint16_t* from, [[maybe_unused]] std::size_t count,
                              [[maybe_unused]] float* out) {
  std::size_t done = 0;
#if defined(__CUDACC__)
#elif defined(__AVX512F__)
  for (; done + 16 <= count; done += 16) {
    const __m256i sixteen = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + done));
    _mm512_storeu_si512(out + done, _mm512_slli_epi32(_mm512_cvtepu16_epi32(sixteen), 16));
  }
#elif defined(__AVX2__)
  for (; done + 8 <= count; done += 8) {
    const __m128i eight = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + done));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + done), _mm256_slli_epi32(_mm256_cvtepu16_epi32(eight), 16));
  }
#endif
  return done;
}
inline std::size_t decode_x86(F16, [[maybe_unused]] const std::uint16_t* from, [[maybe_unused]] std::size_t count,
                              [[maybe_unused]] float* out) {
  std::size_t done = 0;
#if defined(__CUDACC__)
#elif defined(__AVX512F__)
  for (; done + 16 <= count; done += 16) {
    _mm512_storeu_ps(out + done, _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + done))));
  }
#elif defined(__F16C__)
  for (; done + 8 <= count; done += 8) {
    _mm256_storeu_ps(out + done, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + done))));
  }
#endif
  return done;
}

/// Decodes `count` codes, a multiple of 2, whose first lies in the high half of `*codes`: `out[i] = table[code i] · scale`.
/// Returns how many it decoded, a multiple of 16 or 32; the rest is the caller's.
inline std::size_t decode_codes_x86([[maybe_unused]] const std::array<float, 16>& table, [[maybe_unused]] const std::uint8_t* codes,
                                    [[maybe_unused]] std::size_t count, [[maybe_unused]] float scale, [[maybe_unused]] float* out) {
  std::size_t done = 0;
#if defined(__CUDACC__)
#elif defined(__AVX512F__)
  const __m512 entries = _mm512_loadu_ps(table.data()), factor = _mm512_set1_ps(scale);
  const __m512i dword = _mm512_set_epi32(1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0);
  const __m512i shift = _mm512_set_epi32(24, 28, 16, 20, 8, 12, 0, 4, 24, 28, 16, 20, 8, 12, 0, 4);
  for (; done + 16 <= count; done += 16) {
    const __m128i eight = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes + done / 2));
    // Every lane gets the dword that holds its code and shifts it down; the look-up reads the lowest four bits only.
    const __m512i lanes = _mm512_srlv_epi32(_mm512_permutexvar_epi32(dword, _mm512_castsi128_si512(eight)), shift);
    _mm512_storeu_ps(out + done, _mm512_mul_ps(_mm512_permutexvar_ps(lanes, entries), factor));
  }
#elif defined(__AVX2__)
  alignas(16) std::uint8_t planes[4][16];
  for (std::size_t entry = 0; entry < 16; ++entry) {
    const auto bits = std::bit_cast<std::array<std::uint8_t, 4>>(table[entry]);
    for (std::size_t byte = 0; byte < 4; ++byte) planes[byte][entry] = bits[byte];
  }
  const auto plane = [&](std::size_t byte) {
    return _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(planes[byte])));
  };
  const __m256i plane0 = plane(0), plane1 = plane(1), plane2 = plane(2), plane3 = plane(3), nibble = _mm256_set1_epi8(15);
  const __m256 factor = _mm256_set1_ps(scale);
  const auto put = [&](float* low, float* high, __m256i bits) {
    const __m256 values = _mm256_mul_ps(_mm256_castsi256_ps(bits), factor);
    _mm_storeu_ps(low, _mm256_castps256_ps128(values));
    _mm_storeu_ps(high, _mm256_extractf128_ps(values, 1));
  };
  for (; done + 32 <= count; done += 32) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes + done / 2));
    const __m128i first = _mm_srli_epi16(bytes, 4);
    // Codes 0-15 in the lower half, 16-31 in the upper one.
    const __m256i code =
        _mm256_and_si256(_mm256_set_m128i(_mm_unpackhi_epi8(_mm_and_si128(first, _mm256_castsi256_si128(nibble)), bytes),
                                          _mm_unpacklo_epi8(_mm_and_si128(first, _mm256_castsi256_si128(nibble)), bytes)),
                         nibble);
    const __m256i byte0 = _mm256_shuffle_epi8(plane0, code), byte1 = _mm256_shuffle_epi8(plane1, code);
    const __m256i byte2 = _mm256_shuffle_epi8(plane2, code), byte3 = _mm256_shuffle_epi8(plane3, code);
    const __m256i low01 = _mm256_unpacklo_epi8(byte0, byte1), high01 = _mm256_unpackhi_epi8(byte0, byte1);
    const __m256i low23 = _mm256_unpacklo_epi8(byte2, byte3), high23 = _mm256_unpackhi_epi8(byte2, byte3);
    float* const to = out + done;
    put(to, to + 16, _mm256_unpacklo_epi16(low01, low23));
    put(to + 4, to + 20, _mm256_unpackhi_epi16(low01, low23));
    put(to + 8, to + 24, _mm256_unpacklo_epi16(high01, high23));
    put(to + 12, to + 28, _mm256_unpackhi_epi16(high01, high23));
  }
#endif
  return done;
}

}  // namespace mllama::kernels::detail

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
