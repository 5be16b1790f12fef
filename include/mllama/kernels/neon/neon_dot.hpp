// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include <mllama/kernels/isa/operands.hpp>

#if defined(__aarch64__) && !defined(__CUDACC__)
#define MLLAMA_HAS_NEON_BODIES 1
#else
#define MLLAMA_HAS_NEON_BODIES 0
#endif

#if MLLAMA_HAS_NEON_BODIES
#include <arm_neon.h>

#define MLLAMA_NEON_DOT __attribute__((target("arch=armv8.2-a+dotprod")))
#define MLLAMA_TARGET MLLAMA_NEON_DOT

namespace mllama::kernels::isa {

/// NEON with dot products of bytes. The functions name their target themselves: a program for any AArch64 has them.
struct NeonDot : NeonDotShape {
  using Bytes = uint8x16_t;
  using Words = int16x8_t;
  using Ints = int32x4_t;
  using Floats = float32x4_t;

  [[nodiscard]] MLLAMA_INLINE static Bytes load_bytes(const void* from) { return vld1q_u8(static_cast<const std::uint8_t*>(from)); }
  [[nodiscard]] MLLAMA_INLINE static Words load_words(const void* from) { return vreinterpretq_s16_u8(load_bytes(from)); }
  [[nodiscard]] MLLAMA_INLINE static Floats load_floats(const void* from) { return vreinterpretq_f32_u8(load_bytes(from)); }
  MLLAMA_INLINE static void store(void* to, Floats values) { vst1q_f32(static_cast<float*>(to), values); }
  MLLAMA_INLINE static void store(void* to, Bytes values) { vst1q_u8(static_cast<std::uint8_t*>(to), values); }

  template <std::size_t width>
  MLLAMA_INLINE static void load_units(const std::uint8_t* const* rows, std::size_t at, Bytes (&units)[8]) {
    static_assert(width == 1, "products of words do not add neighbours");
    MLLAMA_UNROLL
    for (std::size_t i = 0; i < 8; i += 4, at += 16) {
      const uint32x4_t a = vreinterpretq_u32_u8(load_bytes(rows[0] + at)), b = vreinterpretq_u32_u8(load_bytes(rows[1] + at));
      const uint32x4_t c = vreinterpretq_u32_u8(load_bytes(rows[2] + at)), d = vreinterpretq_u32_u8(load_bytes(rows[3] + at));
      const uint64x2_t even_ab = vreinterpretq_u64_u32(vtrn1q_u32(a, b)), odd_ab = vreinterpretq_u64_u32(vtrn2q_u32(a, b));
      const uint64x2_t even_cd = vreinterpretq_u64_u32(vtrn1q_u32(c, d)), odd_cd = vreinterpretq_u64_u32(vtrn2q_u32(c, d));
      units[i] = vreinterpretq_u8_u64(vtrn1q_u64(even_ab, even_cd));
      units[i + 1] = vreinterpretq_u8_u64(vtrn1q_u64(odd_ab, odd_cd));
      units[i + 2] = vreinterpretq_u8_u64(vtrn2q_u64(even_ab, even_cd));
      units[i + 3] = vreinterpretq_u8_u64(vtrn2q_u64(odd_ab, odd_cd));
    }
  }

  [[nodiscard]] MLLAMA_INLINE static Floats floats_of(F32, const float* from) { return vld1q_f32(from); }
  [[nodiscard]] MLLAMA_INLINE static Floats floats_of(BF16, const std::uint16_t* from) {
    return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(from), 16));
  }
  [[nodiscard]] MLLAMA_INLINE static Floats floats_of(F16, const std::uint16_t* from) {
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(from)));
  }
  [[nodiscard]] MLLAMA_INLINE static Floats floats_of(Int8, const std::int8_t* from) {
    return vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_u32(load_four(from))))));
  }
  [[nodiscard]] MLLAMA_INLINE static Words words_of(Int8, const std::int8_t* from) { return vmovl_s8(vld1_s8(from)); }

  [[nodiscard]] MLLAMA_INLINE static Ints zero_ints() { return vdupq_n_s32(0); }
  [[nodiscard]] MLLAMA_INLINE static Floats zero_floats() { return vdupq_n_f32(0); }
  [[nodiscard]] MLLAMA_INLINE static Floats broadcast(const float* from) { return vld1q_dup_f32(from); }
  [[nodiscard]] MLLAMA_INLINE static Ints repeat_ints(const void* from) { return vdupq_n_s32(four_bytes(from)); }
  [[nodiscard]] MLLAMA_INLINE static Bytes repeat_bytes(const void* from) { return vreinterpretq_u8_s32(repeat_ints(from)); }
  using Table = const float*;
  [[nodiscard]] MLLAMA_INLINE static Table table(const float* from) { return from; }
  [[nodiscard]] MLLAMA_INLINE static Floats look_up(Table table, const std::uint8_t* index) {
    Floats values = vdupq_n_f32(table[index[0]]);
    values = vsetq_lane_f32(table[index[1]], values, 1);
    values = vsetq_lane_f32(table[index[2]], values, 2);
    return vsetq_lane_f32(table[index[3]], values, 3);
  }
  template <class Vector>
  [[nodiscard]] MLLAMA_INLINE static Vector held(Vector values) {
    asm("" : "+w"(values));
    return values;
  }
  [[nodiscard]] MLLAMA_INLINE static Floats scales(const float* from) { return broadcast(from); }

  /// Codebooks: the bytes of their entries, in planes.
  struct Bytes16 {
    uint8x16_t entries;
  };
  struct Words16 {
    uint8x16_t plane[2];
  };
  struct Floats16 {
    uint8x16_t plane[4];
  };
  struct Bfloats16 {
    Words16 upper;
  };
  [[nodiscard]] MLLAMA_INLINE static Bytes16 book(const ByteBook& entries) { return {vld1q_u8(entries.data())}; }
  [[nodiscard]] MLLAMA_INLINE static Words16 book(const WordBook& entries) {
    return {{vld1q_u8(plane(entries, 0).data()), vld1q_u8(plane(entries, 1).data())}};
  }
  [[nodiscard]] MLLAMA_INLINE static Floats16 book(const FloatBook& entries) {
    return {{vld1q_u8(plane(entries, 0).data()), vld1q_u8(plane(entries, 1).data()), vld1q_u8(plane(entries, 2).data()),
             vld1q_u8(plane(entries, 3).data())}};
  }

  /// Of floats whose lower halves are zero.
  [[nodiscard]] MLLAMA_INLINE static Bfloats16 short_book(const FloatBook& entries) {
    return {{{vld1q_u8(plane(entries, 2).data()), vld1q_u8(plane(entries, 3).data())}}};
  }

  MLLAMA_INLINE static void decode(const Bytes16& book, Bytes codes, Bytes (&out)[2]) {
    out[0] = vqtbl1q_u8(book.entries, high_nibbles(codes));
    out[1] = vqtbl1q_u8(book.entries, low_nibbles(codes));
  }
  MLLAMA_INLINE static void decode(const Words16& book, Bytes codes, Words (&out)[4]) {
    interleave(book, high_nibbles(codes), out[0], out[1]);
    interleave(book, low_nibbles(codes), out[2], out[3]);
  }
  MLLAMA_INLINE static void decode(const Floats16& book, Bytes codes, std::size_t half, Floats (&out)[4]) {
    const uint8x16_t code = half == 0 ? high_nibbles(codes) : low_nibbles(codes);
    int16x8_t low[2], high[2];  // bytes 0 and 1, 2 and 3 of the first and of the last eight codes
    interleave({{book.plane[0], book.plane[1]}}, code, low[0], low[1]);
    interleave({{book.plane[2], book.plane[3]}}, code, high[0], high[1]);
    MLLAMA_UNROLL
    for (std::size_t i = 0; i < 2; ++i) {
      out[2 * i] = vreinterpretq_f32_s16(vzip1q_s16(low[i], high[i]));
      out[2 * i + 1] = vreinterpretq_f32_s16(vzip2q_s16(low[i], high[i]));
    }
  }

  MLLAMA_INLINE static void decode(const Bfloats16& book, Bytes codes, std::size_t half, Floats (&out)[4]) {
    int16x8_t high[2];
    interleave(book.upper, half == 0 ? high_nibbles(codes) : low_nibbles(codes), high[0], high[1]);
    MLLAMA_UNROLL
    for (std::size_t i = 0; i < 2; ++i) {
      out[2 * i] = vreinterpretq_f32_s16(vzip1q_s16(vdupq_n_s16(0), high[i]));
      out[2 * i + 1] = vreinterpretq_f32_s16(vzip2q_s16(vdupq_n_s16(0), high[i]));
    }
  }

  [[nodiscard]] MLLAMA_INLINE static Ints dot_words(Ints sum, Words a, Words b) {
    return vmlal_high_s16(vmlal_s16(sum, vget_low_s16(a), vget_low_s16(b)), a, b);
  }
  [[nodiscard]] MLLAMA_INLINE static Ints dot_bytes(Ints sum, Bytes a, Bytes b) {
    return vdotq_s32(sum, vreinterpretq_s8_u8(a), vreinterpretq_s8_u8(b));
  }
  [[nodiscard]] MLLAMA_INLINE static Ints multiply_words(Words a, Words b) { return dot_words(zero_ints(), a, b); }
  [[nodiscard]] MLLAMA_INLINE static Ints multiply_bytes(Bytes a, Bytes b) { return dot_bytes(zero_ints(), a, b); }

  [[nodiscard]] MLLAMA_INLINE static Floats to_floats(Ints values) { return vcvtq_f32_s32(values); }
  [[nodiscard]] MLLAMA_INLINE static Floats add(Floats a, Floats b) { return vaddq_f32(a, b); }
  [[nodiscard]] MLLAMA_INLINE static Floats multiply(Floats a, Floats b) { return vmulq_f32(a, b); }
  [[nodiscard]] MLLAMA_INLINE static Floats multiply_add(Floats a, Floats b, Floats c) { return vfmaq_f32(c, a, b); }
  [[nodiscard]] MLLAMA_INLINE static Floats maximum(Floats a, Floats b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
  [[nodiscard]] MLLAMA_INLINE static Floats power_of_two(Floats values) {
    return vreinterpretq_f32_s32(vshlq_n_s32(vreinterpretq_s32_f32(values), 23));
  }
  MLLAMA_INLINE static void store_sums(float* to, const Floats* values) {
    MLLAMA_UNROLL
    for (std::size_t i = 0; i < 8; i += 4) {
      vst1q_f32(to + i, vpaddq_f32(vpaddq_f32(values[i], values[i + 1]), vpaddq_f32(values[i + 2], values[i + 3])));
    }
  }
  [[nodiscard]] MLLAMA_INLINE static float sum(Floats values) {
    const float32x2_t two = vadd_f32(vget_low_f32(values), vget_high_f32(values));
    return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
  }

 private:
  [[nodiscard]] MLLAMA_INLINE static uint32x2_t load_four(const std::int8_t* from) {
    std::uint32_t four = 0;
    std::memcpy(&four, from, sizeof four);
    return vdup_n_u32(four);
  }
  [[nodiscard]] MLLAMA_INLINE static uint8x16_t low_nibbles(Bytes codes) { return vandq_u8(codes, vdupq_n_u8(15)); }
  [[nodiscard]] MLLAMA_INLINE static uint8x16_t high_nibbles(Bytes codes) { return vshrq_n_u8(codes, 4); }

  /// Words looked up in two planes: for the first and for the last eight codes.
  MLLAMA_INLINE static void interleave(const Words16& book, uint8x16_t code, Words& first, Words& last) {
    const uint8x16_t low = vqtbl1q_u8(book.plane[0], code), high = vqtbl1q_u8(book.plane[1], code);
    first = vreinterpretq_s16_u8(vzip1q_u8(low, high));
    last = vreinterpretq_s16_u8(vzip2q_u8(low, high));
  }
};

}  // namespace mllama::kernels::isa

namespace mllama::kernels::isa::neon_dot {
#include <mllama/kernels/isa/bodies.inc>
}  // namespace mllama::kernels::isa::neon_dot

#undef MLLAMA_TARGET
#endif
