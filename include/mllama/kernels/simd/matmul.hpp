// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>

#include <mllama/core/context.hpp>
#include <mllama/core/format.hpp>
#include <mllama/core/tensor.hpp>
#include <mllama/kernels/epilogue.hpp>
#include <mllama/kernels/simd/batch.hpp>
#include <mllama/kernels/simd/decode.hpp>

#if MLLAMA_HAS_XSIMD
namespace mllama::kernels {

namespace detail {

/// Blocking of the product, in elements. A panel of weights is decoded once for `rows` rows of x, and stays in the second-level
/// cache while they pass; one row of x and of the panel, `depth` long, is what an accumulator sums.
struct ProductBlocks {
  static constexpr std::size_t depth = 1024, columns = 64, rows = 128;
  /// Rows of a panel are a cache line longer than a power of two, or all of them would fall into the same sets.
  static constexpr std::size_t panel_stride = depth + 16;
};

/// Rows x columns of accumulators that fit the registers beside their operands.
template <class Arch>
inline constexpr std::size_t product_tile_rows = vector_registers<Arch> == 32 ? 4 : 3;
inline constexpr std::size_t product_tile_columns = 4;

/// `sums[r][c] += Σ x[r][k] · panel[c][k]` over k < depth, for `Rows` rows and `product_tile_columns` columns. The panel is zero
/// from `depth` to the next multiple of a vector. Every sum is the sum of the lanes of one accumulator, whatever `Rows` is.
template <class B, std::size_t Rows>
void add_products(const float* x, std::size_t x_stride, const float* panel, std::size_t depth, float* sums,
                  std::size_t sums_stride) {
  constexpr std::size_t columns = product_tile_columns, stride = ProductBlocks::panel_stride;
  B accumulators[Rows][columns];
  unroll<Rows>([&](auto r) { unroll<columns>([&](auto c) { accumulators[r][c] = B(0.0F); }); });
  alignas(buffer_alignment) float padded[Rows * B::size];
  for (std::size_t k = 0, end = depth / B::size * B::size;;) {
    for (; k < end; k += B::size, x += B::size) {
      B values[Rows];
      unroll<Rows>([&](auto r) { values[r] = held(B::load_unaligned(x + r * x_stride)); });
      unroll<columns>([&](auto c) {
        const B weight = held(B::load_aligned(panel + c * stride + k));
        unroll<Rows>([&](auto r) { accumulators[r][c] = xsimd::fma(values[r], weight, accumulators[r][c]); });
      });
    }
    if (k >= depth) break;
    // The same step once more with the rest of x: a second copy of it would not be inlined, and the accumulators lie in memory.
    for (std::size_t r = 0; r < Rows; ++r) {
      for (std::size_t i = 0; i < B::size; ++i) padded[r * B::size + i] = k + i < depth ? x[r * x_stride + i] : 0.0F;
    }
    x = padded;
    x_stride = B::size;
    end = k + B::size;
  }
  unroll<Rows>([&](auto r) { unroll<columns>([&](auto c) { sums[r * sums_stride + c] += sum_of_lanes(accumulators[r][c]); }); });
}

/// The same for any number of rows.
template <class Arch>
void add_products(Matrix<const float> x, const float* panel, std::size_t columns, std::size_t depth, float* sums) {
  using B = FloatBatch<Arch>;
  constexpr std::size_t tile = product_tile_rows<Arch>, stride = ProductBlocks::columns;
  for (std::size_t r = 0; r < x.rows; r += tile) {
    for (std::size_t c = 0; c < columns; c += product_tile_columns) {
      const float* const some = panel + c * ProductBlocks::panel_stride;
      float* const to = sums + r * stride + c;
      switch (x.rows - r) {
        case 1:
          add_products<B, 1>(x[r], x.stride, some, depth, to, stride);
          break;
        case 2:
          add_products<B, 2>(x[r], x.stride, some, depth, to, stride);
          break;
        case 3:
          add_products<B, 3>(x[r], x.stride, some, depth, to, stride);
          break;
        default:
          add_products<B, tile>(x[r], x.stride, some, depth, to, stride);
      }
    }
  }
}

}  // namespace detail

namespace detail {
/// A stored matrix of any format: the product below is compiled once for all of them.
struct StoredMatrix {
  const void* weights;
  std::size_t rows, columns;
  void (*decode)(const void* weights, std::size_t first, std::size_t count, float* out);

  template <class F>
  explicit StoredMatrix(const Weights<F>& w)
      : weights(&w),
        rows(w.rows),
        columns(w.columns),
        decode([](const void* from, std::size_t first, std::size_t count, float* out) {
          decode_run(*static_cast<const Weights<F>*>(from), first, count, out);
        }) {}
};
}  // namespace detail

/// Weights are decoded to float32 a panel at a time and multiplied by all rows. A sum runs over chunks of 1024 columns of W, each
/// in the lanes of one vector: a row's result depends neither on the number of threads nor on the other rows of x.
template <detail::VectorArch Arch, class Ctx>
void panel_matmul(cpu<Arch, F32>, Ctx& ctx, Matrix<const float> x, const detail::StoredMatrix& w, const Epilogue& epilogue,
                  Matrix<float> y) {
  using Blocks = detail::ProductBlocks;
  using B = detail::FloatBatch<Arch>;
  constexpr std::size_t panel_size = Blocks::columns * Blocks::panel_stride;
  // With few rows a panel is used up at once: a small one does not leave the first-level cache.
  const std::size_t panel_columns = x.rows <= detail::product_tile_rows<Arch> ? detail::product_tile_columns : Blocks::columns;
  auto scratch = ctx.template tensor<float, Rows, Rows>({ctx.threads().size(), panel_size + Blocks::rows * Blocks::columns});
  ctx.parallel(w.rows, 16, [&](std::size_t begin, std::size_t end, unsigned worker) {
    float* const panel = scratch[worker].data();
    float* const sums = panel + panel_size;
    for (std::size_t row = 0; row < x.rows; row += Blocks::rows) {
      const std::size_t rows = std::min(Blocks::rows, x.rows - row);
      for (std::size_t column = begin; column < end; column += panel_columns) {
        const std::size_t columns = std::min(panel_columns, end - column);
        for (std::size_t r = 0; r < rows; ++r) std::fill_n(sums + r * Blocks::columns, panel_columns, 0.0F);
        for (std::size_t k = 0; k < w.columns; k += Blocks::depth) {
          const std::size_t depth = std::min(Blocks::depth, w.columns - k), padded = (depth + B::size - 1) / B::size * B::size;
          for (std::size_t c = 0; c < columns; ++c) {
            float* const decoded = panel + c * Blocks::panel_stride;
            w.decode(w.weights, (column + c) * w.columns + k, depth, decoded);
            std::fill(decoded + depth, decoded + padded, 0.0F);
          }
          for (std::size_t c = columns; c % detail::product_tile_columns != 0; ++c) {  // the rest of the last tile
            std::fill_n(panel + c * Blocks::panel_stride, padded, 0.0F);
          }
          detail::add_products<Arch>({x[row] + k, rows, depth, x.stride}, panel, columns, depth, sums);
        }
        for (std::size_t r = 0; r < rows; ++r) {
          for (std::size_t c = 0; c < columns; ++c) {
            epilogue.store(sums[r * Blocks::columns + c], row + r, column + c, y[row + r][column + c]);
          }
        }
      }
    }
  });
}

}  // namespace mllama::kernels
#endif
