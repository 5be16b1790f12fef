// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numeric>
#include <type_traits>
#include <utility>

#include <mllama/core/context.hpp>
#include <mllama/core/format.hpp>
#include <mllama/core/rounding.hpp>
#include <mllama/kernels/isa/shape.hpp>
#include <mllama/kernels/epilogue.hpp>

/// What the bodies of matrix products share that does not depend on the instruction set.

namespace mllama::kernels::isa {

/// Largest magnitude of activations and of codebook entries as integers. With 14 bits, a lane of 32 bits holds its share of the
/// products of a slot, however short the vector is.
inline constexpr int largest_word = 8191;
inline constexpr int largest_byte = 127;

/// A codebook in integers: an entry of the table is nearly `entries · step`.
struct IntegerBook {
  std::array<int, 16> entries{};
  float step = 0;
};

/// The integers of at most `largest` in magnitude whose step leaves the least error: not always the smallest step.
[[nodiscard]] constexpr IntegerBook integer_book(const std::array<float, 16>& table, int largest) {
  constexpr int candidates = 256;
  IntegerBook best;
  double least = std::numeric_limits<double>::max();
  for (int i = 0; i < candidates; ++i) {
    const double scale = largest * (1 - 0.5 * i / candidates);
    IntegerBook book{.step = static_cast<float>(1 / scale)};
    double error = 0;
    for (std::size_t code = 0; code < table.size(); ++code) {
      const double exact = double{table[code]} * scale;
      book.entries[code] = static_cast<int>(exact < 0 ? exact - 0.5 : exact + 0.5);
      const double difference = (book.entries[code] - exact) / scale;
      error += difference * difference;
    }
    if (error < least) {
      least = error;
      best = book;
    }
  }
  return best;
}
template <BlockFormat F, int largest>
inline constexpr IntegerBook integer_book_of = integer_book(F::table, largest);

/// A matrix of four-bit codes, whatever they stand for: bodies take the codebook as an argument, and are compiled once for all of
/// these formats.
struct FourBitMatrix {
  const std::uint8_t* codes;
  std::size_t rows, columns, block;
  const float* absmax;
  const std::uint8_t* absmax_codes;
  const float *nested_absmax, *nested_map;
  std::size_t nested_block;
  float nested_offset;
  const std::array<float, 16>* table;
  const IntegerBook* integers;

  template <BlockFormat F>
  FourBitMatrix(const Weights<F>& w, const IntegerBook& book)
      : codes(w.codes),
        rows(w.rows),
        columns(w.columns),
        block(w.block),
        absmax(w.absmax),
        absmax_codes(w.absmax_codes),
        nested_absmax(w.nested_absmax),
        nested_map(w.nested_map),
        nested_block(w.nested_block),
        nested_offset(w.nested_offset),
        table(&F::table),
        integers(&book) {}

  /// Scales of a row whose first block begins with it, times `factor`: one for each slot.
  void slot_scales(std::size_t row, float factor, float* out) const {
    const std::size_t blocks = columns / block, last = (row + 1) * blocks, copies = block / slot;
    const auto put = [&](float scale) {
      for (std::size_t i = 0; i < copies; ++i) *out++ = scale * factor;
    };
    std::size_t b = row * blocks;
    if (absmax != nullptr) {
      for (; b < last; ++b) put(absmax[b]);
      return;
    }
    while (b < last) {
      const std::size_t outer = b / nested_block, end = std::min(last, (outer + 1) * nested_block);
      for (; b < end; ++b) put(rounded(nested_map[absmax_codes[b]] * nested_absmax[outer]) + nested_offset);
    }
  }
};

/// Rows of activations as a body reads them: in the workspace, or, floats in their own order, where they are.
struct Activations {
  const std::byte* data = nullptr;
  std::size_t stride = 0;  ///< bytes from row to row
  /// Of integers, for each slot: their scale; and what the offset of the codes adds to a sum of products, negated and scaled.
  const float *scales = nullptr, *corrections = nullptr;
  std::size_t slots = 0;  ///< from row to row

  [[nodiscard]] Activations from(std::size_t row) const {
    return {data + row * stride, stride, scales + row * slots, corrections + row * slots, slots};
  }
};

/// Multiplies sums of rows of 8-bit codes by what a code counts.
inline void scale_columns(float* sums, std::size_t stride, std::size_t rows, const float* scales, std::size_t columns) {
  for (std::size_t r = 0; r < rows; ++r) {
    for (std::size_t c = 0; c < columns; ++c) sums[r * stride + c] *= scales[c] * Int8::step;
  }
}

/// Where products go.
struct Output {
  const Epilogue& epilogue;
  Matrix<float> y;
  std::size_t first_row;

  /// Sums of some columns, in rows that lie `stride` apart. Not inlined: a body of another target might fuse operations.
  [[gnu::noinline]] void store(const float* sums, std::size_t stride, std::size_t rows, std::size_t column, std::size_t columns) const {
    for (std::size_t r = 0; r < rows; ++r) {
      float* const to = y[first_row + r] + column;
      for (std::size_t c = 0; c < columns; ++c) epilogue.store(sums[r * stride + c], first_row + r, column + c, to[c]);
    }
  }
};

}  // namespace mllama::kernels::isa
