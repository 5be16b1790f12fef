// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

/// What the bodies of matrix products need to know about an instruction set beside its operations: how long its vectors are, and in
/// which order it decodes four-bit codes. A *shape* says so, on every machine. The operations over a shape are either those of the
/// instruction set (x86/, neon/), or scalar ones, with which the tests run the same bodies anywhere.
///
/// A *step* is one vector of four-bit codes, two weights in a byte. Decoded to elements of 1, 2 or 4 bytes it is 2, 4 or 8 vectors.
/// To put weights into their order would cost more than to decode them: activations are put into the weights' order instead, once
/// per product. A *slot* is the unit that has a scale: of activations, where they are integers, and of weights, whose blocks are
/// slots or multiples of one.
///
/// Many rows of integers are multiplied in tiles of tile_rows rows of x and tile_vectors vectors, a lane for each row of W.

/// Functions that are part of a body of MLLAMA_TARGET, and loops over registers.
#define MLLAMA_INLINE MLLAMA_TARGET __attribute__((always_inline)) inline
#define MLLAMA_UNROLL _Pragma("GCC unroll 16")

namespace mllama::kernels::isa {

/// Elements of a slot.
inline constexpr std::size_t slot = 64;
/// Bytes of a lane of 32 bits. Where a lane is a row of W, the codes in it are a *unit* of that row.
inline constexpr std::size_t unit = 4;

/// Rows of x from which on matrix registers are used, where one product of bfloat16 is not all that is asked for.
inline constexpr std::size_t fewest_matrix_rows = 48;

/// Bytes of elements are looked up for all high nibbles, then for all low ones, and interleaved within 16 bytes: x86 unpack, NEON zip.
struct Interleaved {
  /// The weight of a step at a position of its decoded vectors, whose elements have `width` bytes.
  static constexpr std::size_t weight(std::size_t vector_bytes, std::size_t width, std::size_t position) {
    const std::size_t lanes = vector_bytes / width, lanes_of_16 = 16 / width;
    const std::size_t vector = position / lanes, lane = position % lanes;
    const std::size_t byte = lane / lanes_of_16 * 16 + vector % width * lanes_of_16 + lane % lanes_of_16;
    return 2 * byte + vector / width;
  }
  /// The weight of a unit that element `element` of its lane in decoded vector `vector` is.
  static constexpr std::size_t unit_weight(std::size_t width, std::size_t vector, std::size_t element) {
    return 2 * (vector % width * (unit / width) + element) + vector / width;
  }
};

/// A lane looks up its element by its lowest four bits and is shifted for the next vector: permutations of AVX-512.
struct Shifted {
  static constexpr std::size_t weight(std::size_t vector_bytes, std::size_t width, std::size_t position) {
    const std::size_t lanes = vector_bytes / width;
    return position % lanes * 2 * width + (position / lanes ^ 1U);
  }
  static constexpr std::size_t unit_weight(std::size_t width, std::size_t vector, std::size_t element) {
    return element * 2 * width + (vector ^ 1U);
  }
};

/// The first factors of products of bytes lie between `lowest` and `highest`. Products of words are added to those of their
/// neighbours, or else of the other half of the vector. `bfloats`: words may be bfloat16, whose products are added in float32.
/// `has_matrices`: beside its vectors it has *matrix registers*, of 16 rows of a vector: see matrices.inc.
struct Avx2Shape {
  static constexpr std::string_view name = "avx2";
  static constexpr std::size_t bytes = 32, registers = 16;
  static constexpr int lowest = 0, highest = 127;  // two products are added in 16 bits
  static constexpr bool neighbours = true, bfloats = false, has_matrices = false;
  static constexpr std::size_t tile_rows = 4, tile_vectors = 2;
  using Order = Interleaved;
};
struct AvxVnniShape : Avx2Shape {
  static constexpr std::size_t tile_rows = 6;  // a dot product takes as long as ten of them take to begin
  static constexpr std::string_view name = "avxvnni";
  static constexpr int highest = 255;
};
struct Avx512Shape {
  static constexpr std::string_view name = "avx512";
  static constexpr std::size_t bytes = 64, registers = 32;
  static constexpr int lowest = 0, highest = 127;
  static constexpr bool neighbours = true, bfloats = false, has_matrices = false;
  static constexpr std::size_t tile_rows = 8, tile_vectors = 3;
  using Order = Shifted;
};
struct Avx512VnniShape : Avx512Shape {
  static constexpr std::string_view name = "avx512vnni";
  static constexpr int highest = 255;
};
struct Avx512Bf16Shape : Avx512VnniShape {
  static constexpr std::string_view name = "avx512bf16";
  static constexpr bool bfloats = true;
};
struct Avx512AmxShape : Avx512Bf16Shape {
  static constexpr std::string_view name = "avx512amx";
  static constexpr bool has_matrices = true;
};
struct NeonDotShape {
  static constexpr std::string_view name = "neondot";
  static constexpr std::size_t bytes = 16, registers = 32;
  static constexpr int lowest = -127, highest = 127;
  static constexpr bool neighbours = false, bfloats = false, has_matrices = false;
  static constexpr std::size_t tile_rows = 6, tile_vectors = 4;
  using Order = Interleaved;
};

[[nodiscard]] inline std::int32_t four_bytes(const void* from) {
  std::int32_t bytes = 0;
  std::memcpy(&bytes, from, sizeof bytes);
  return bytes;
}

/// What the sixteen codes stand for, as bytes (signed or not, by the shape), words or floats.
using ByteBook = std::array<std::uint8_t, 16>;
using WordBook = std::array<std::int16_t, 16>;
using FloatBook = std::array<float, 16>;

/// Byte `byte` of all entries of a codebook.
template <class E>
[[nodiscard]] constexpr ByteBook plane(const std::array<E, 16>& entries, std::size_t byte) {
  ByteBook bytes{};
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = std::bit_cast<std::array<std::uint8_t, sizeof(E)>>(entries[i])[byte];
  return bytes;
}

}  // namespace mllama::kernels::isa
