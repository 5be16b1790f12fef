// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numeric>
#include <span>
#include <type_traits>
#include <utility>
#include <variant>

#include <mllama/core/context.hpp>
#include <mllama/core/format.hpp>
#include <mllama/core/rounding.hpp>
#include <mllama/core/tensor.hpp>
#include <mllama/kernels/epilogue.hpp>
#include <mllama/kernels/isa/shape.hpp>

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

/// A codebook in bfloat16.
template <BlockFormat F>
inline constexpr std::array<float, 16> rounded_table_of = [] {
  std::array<float, 16> rounded{};
  for (std::size_t code = 0; code < rounded.size(); ++code) rounded[code] = BF16::decode(BF16::encode(F::table[code]));
  return rounded;
}();

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

  /// Two roundings in the nested case, as in Weights::scale.
  [[nodiscard]] float scale(std::size_t b) const {
    if (absmax != nullptr) return absmax[b];
    return rounded(nested_map[absmax_codes[b]] * nested_absmax[b / nested_block]) + nested_offset;
  }
};

/// A matrix of numbers, whatever they are stored as: bodies take how they become bfloat16 as an argument, too.
struct NumberMatrix {
  const std::byte* data;
  std::size_t rows, columns;
  std::size_t width = sizeof(BF16::stored);  ///< bytes of a number
  const float* scales = nullptr;             ///< of rows, where numbers are 8-bit codes
  /// `count` numbers, a multiple of a slot, to bfloat16; null if that is what they are.
  void (*round)(const std::byte* from, std::size_t count, BF16::stored* to) = nullptr;
  /// The same to float32, not scaled.
  void (*decode)(const std::byte* from, std::size_t count, float* to) = nullptr;
};

/// Rows of activations as a body reads them: in the workspace, or, floats in their own order, where they are.
struct Activations {
  const std::byte* data = nullptr;
  std::size_t stride = 0;  ///< bytes from row to row
  /// Of integers, for each slot: their scale; and what the offset of the codes adds to a sum of products, negated and, unless it is for
  /// tiles, scaled. Those for tiles are integers.
  const float *scales = nullptr, *corrections = nullptr;
  std::size_t slots = 0;  ///< from row to row

  [[nodiscard]] Activations from(std::size_t row) const {
    if (scales == nullptr) return {data + row * stride, stride, nullptr, nullptr, slots};
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
  [[gnu::noinline]] void store(const float* sums, std::size_t stride, std::size_t rows, std::size_t column,
                               std::size_t columns) const {
    for (std::size_t r = 0; r < rows; ++r)
      epilogue.store(sums + r * stride, first_row + r, column, columns, y[first_row + r] + column);
  }
};

/// A product's body, for one way of storing weights: bodies differ in type, so what drives them is compiled once for all of them.
struct Body {
  std::size_t element_bytes;  ///< of prepared activations, 0 if they are read where they are
  bool integers;              ///< activations have scales
  std::size_t grain;          ///< rows of W that are multiplied together
  /// Floats of scratch memory for each thread, for activations of so many slots, and so many rows.
  std::size_t (*scratch)(std::size_t slots, std::size_t rows);
  void (*prepare)(const float* x, std::size_t columns, std::byte* data, float* scales, float* corrections);
  /// Rows [begin, end) of W.
  void (*multiply)(const void* source, const Activations& x, std::size_t rows, std::size_t begin, std::size_t end, float* scratch,
                   const Output& output);
  /// Rows of activations that are prepared side by side, in pieces of a cache line.
  std::size_t rows_together = 1;

  [[nodiscard]] std::size_t offset(std::size_t row, std::size_t stride) const {
    constexpr std::size_t line = 64;
    return row / rows_together * rows_together * stride + row % rows_together * line;
  }
};

/// Weights as a body takes them. Without a body, none takes matrices of their shape.
struct Operand {
  const Body* body = nullptr;
  std::size_t rows = 0;
  std::variant<const void*, FourBitMatrix, NumberMatrix> source;

  template <class Source>
  Operand(const Body& of, const Source& matrix) : body(&of), rows(matrix.rows) {
    if constexpr (std::same_as<Source, FourBitMatrix> || std::same_as<Source, NumberMatrix>) {
      source = matrix;
    } else {
      source = static_cast<const void*>(&matrix);  // the caller's
    }
  }
  Operand() = default;

  [[nodiscard]] const void* data() const {
    if (const auto* codes = std::get_if<FourBitMatrix>(&source)) return codes;
    if (const auto* numbers = std::get_if<NumberMatrix>(&source)) return numbers;
    return *std::get_if<const void*>(&source);
  }
};

/// One of several products of the same activations.
struct Product {
  Operand weights;
  Epilogue epilogue;
  Matrix<float> y;
};

/// Rows of activations that are prepared at a time.
inline constexpr std::size_t most_rows = 512;

/// Products of x with matrices that have the same body: x is prepared once, and the matrices are multiplied as if they were one.
template <class Ctx>
void multiply(Ctx& ctx, Matrix<const float> x, std::span<const Product> products) {
  const auto whole = [](std::size_t count, std::size_t of) { return (count + of - 1) / of * of; };
  const auto whole_lines = [&](std::size_t floats) { return whole(floats, 16); };
  const Body& body = *products.front().weights.body;
  const std::size_t slots = whole_lines(x.width / slot), block = std::min(x.rows, most_rows);
  // A cache line longer than a power of two, or all rows would fall into the same sets.
  const std::size_t stride = body.element_bytes == 0 ? 0 : x.width * body.element_bytes + 64;
  auto data = ctx.template tensor<std::byte, Rows, Rows>({whole(block, body.rows_together), stride});
  auto scales = ctx.template tensor<float, Rows, Rows>({body.integers ? 2 * block : 0, slots});
  auto scratch = ctx.template tensor<float, Rows, Rows>({ctx.threads().size(), whole_lines(body.scratch(slots, block))});
  scales.fill(0);
  std::size_t all_rows = 0;
  for (const Product& product : products) all_rows += whole(product.weights.rows, body.grain);
  for (std::size_t row = 0; row < x.rows; row += block) {
    const std::size_t rows = std::min(block, x.rows - row);
    Activations activations{reinterpret_cast<const std::byte*>(x[row]), x.stride * sizeof(float), nullptr, nullptr, slots};
    if (stride != 0) {
      activations = {data.data(), stride, scales.data(), scales.data() + block * slots, slots};
      // Few rows are prepared sooner than another thread is woken.
      ctx.parallel(rows, 32768 / x.width, [&](std::size_t begin, std::size_t end, unsigned) {
        for (std::size_t r = begin; r < end; ++r) {
          float* const of_row = scales.data() + r * slots;
          body.prepare(x[row + r], x.width, data.data() + body.offset(r, stride), of_row, of_row + block * slots);
        }
      });
    }
    ctx.parallel(all_rows, body.grain, [&](std::size_t begin, std::size_t end, unsigned worker) {
      for (const Product& product : products) {
        const std::size_t last = std::min(end, product.weights.rows), length = whole(product.weights.rows, body.grain);
        if (begin < last) {
          body.multiply(product.weights.data(), activations, rows, begin, last, scratch[worker].data(),
                        {product.epilogue, product.y, row});
        }
        if (end <= length) return;
        begin = std::max(begin, length) - length;
        end -= length;
      }
    });
  }
}

}  // namespace mllama::kernels::isa
