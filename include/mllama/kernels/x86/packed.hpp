// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

#include <mllama/kernels/matmul.hpp>
#include <mllama/kernels/simd/batch.hpp>

#if defined(__AVX2__) && defined(__FMA__) && !defined(__CUDACC__)
#include <immintrin.h>

/// Products with packed 4-bit codes: a lane of a vector is a row of weights, so that no sum runs across lanes.

namespace mllama::kernels {

namespace detail {

/// Blocking: rows of weights that are decoded together, a vector of them per group, and rows of x that then use them.
struct PackedBlocks {
  static constexpr std::size_t groups = 4, rows = 128, tile_rows = 3;
};

/// The byte planes of a table of 16 floats, for look-ups of 16 codes at a time in each half of a register.
template <BlockFormat F>
struct TablePlanes {
  __m256i plane[4];

  TablePlanes() {
    alignas(16) std::uint8_t bytes[4][16];
    for (std::size_t code = 0; code < 16; ++code) {
      const auto value = std::bit_cast<std::array<std::uint8_t, 4>>(F::table[code]);
      for (std::size_t byte = 0; byte < 4; ++byte) bytes[byte][code] = value[byte];
    }
    for (std::size_t byte = 0; byte < 4; ++byte) {
      plane[byte] = _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(bytes[byte])));
    }
  }

  /// The floats of four bytes' upper or lower codes of eight rows: a vector of rows for each byte, stored `stride` floats apart.
  void look_up(__m256i codes, float* out, std::size_t stride) const {
    const __m256i byte0 = _mm256_shuffle_epi8(plane[0], codes), byte1 = _mm256_shuffle_epi8(plane[1], codes);
    const __m256i byte2 = _mm256_shuffle_epi8(plane[2], codes), byte3 = _mm256_shuffle_epi8(plane[3], codes);
    const __m256i low01 = _mm256_unpacklo_epi8(byte0, byte1), high01 = _mm256_unpackhi_epi8(byte0, byte1);
    const __m256i low23 = _mm256_unpacklo_epi8(byte2, byte3), high23 = _mm256_unpackhi_epi8(byte2, byte3);
    const auto put = [&](std::size_t i, __m256i bits) { _mm256_store_si256(reinterpret_cast<__m256i*>(out + i * stride), bits); };
    put(0, _mm256_unpacklo_epi16(low01, low23));
    put(1, _mm256_unpackhi_epi16(low01, low23));
    put(2, _mm256_unpacklo_epi16(high01, high23));
    put(3, _mm256_unpackhi_epi16(high01, high23));
  }
};

/// `sums[r][g] += scale[g] · Σ x[r][k] · panel[k][g]` over a block of columns, for `Rows` rows of x and `Groups` vectors.
template <std::size_t Rows, std::size_t Groups>
void add_packed_block(const float* x, std::size_t x_stride, const float* panel, std::size_t block, const __m256* scales,
                      float* sums) {
  constexpr std::size_t width = 8 * Groups, stride = 8 * PackedBlocks::groups;
  __m256 accumulators[Rows][Groups];
  for (auto& row : accumulators) {
    for (__m256& accumulator : row) accumulator = _mm256_setzero_ps();
  }
  for (std::size_t k = 0; k < block; ++k, panel += width) {
#pragma GCC unroll 3
    for (std::size_t r = 0; r < Rows; ++r) {
      const __m256 value = _mm256_broadcast_ss(x + r * x_stride + k);
#pragma GCC unroll 4
      for (std::size_t g = 0; g < Groups; ++g) {
        accumulators[r][g] = _mm256_fmadd_ps(value, _mm256_load_ps(panel + 8 * g), accumulators[r][g]);
      }
    }
  }
  for (std::size_t r = 0; r < Rows; ++r) {
    for (std::size_t g = 0; g < Groups; ++g) {
      float* const sum = sums + r * stride + 8 * g;
      _mm256_store_ps(sum, _mm256_fmadd_ps(accumulators[r][g], scales[g], _mm256_load_ps(sum)));
    }
  }
}

/// The groups [first, first + Groups) of rows of weights times all rows of x; the sums are left in `sums`.
template <std::size_t Groups, class F>
void packed_product(const TablePlanes<typename F::unpacked>& table, Matrix<const float> x, const Weights<F>& w, std::size_t first,
                    float* panel, float* sums) {
  constexpr std::size_t width = 8 * Groups, stride = 8 * PackedBlocks::groups, unit = F::group * F::unit_bytes;
  const std::size_t row_bytes = w.columns / 2, blocks = w.columns / w.block;
  const __m256i nibble = _mm256_set1_epi8(15);
  std::fill_n(sums, x.rows * stride, 0.0F);
  for (std::size_t b = 0; b < blocks; ++b) {
    __m256 scales[Groups];
    for (std::size_t g = 0; g < Groups; ++g) {
      const std::uint8_t* from = w.codes + (first + g) * F::group * row_bytes + b * w.block / 2 * F::group;
      float* to = panel + 8 * g;
      for (std::size_t column = 0; column < w.block; column += 2 * F::unit_bytes, from += unit, to += 2 * F::unit_bytes * width) {
        const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
        table.look_up(_mm256_and_si256(_mm256_srli_epi16(bytes, 4), nibble), to, 2 * width);
        table.look_up(_mm256_and_si256(bytes, nibble), to + width, 2 * width);
      }
      alignas(32) float scale[F::group];
      for (std::size_t row = 0; row < F::group; ++row) scale[row] = w.scale(((first + g) * F::group + row) * blocks + b);
      scales[g] = _mm256_load_ps(scale);
    }
    const float* const values = x.data + b * w.block;
    std::size_t r = 0;
    for (; r + 3 <= x.rows; r += 3) {
      add_packed_block<3, Groups>(values + r * x.stride, x.stride, panel, w.block, scales, sums + r * stride);
    }
    for (; r < x.rows; ++r) {
      add_packed_block<1, Groups>(values + r * x.stride, x.stride, panel, w.block, scales, sums + r * stride);
    }
  }
}

}  // namespace detail

/// A block's products are summed in the order of the columns, then scaled: a row's result depends neither on the number of threads
/// nor on the other rows of x. Differs in rounding from the product with unpacked codes.
/// Costs:  decodes the weights once per 128 rows of x
template <detail::VectorArch Arch, class Ctx, PackedFormat F>
void matmul_body(cpu<Arch, F32>, Ctx& ctx, Matrix<const float> x, const Weights<F>& w, const Epilogue& epilogue, Matrix<float> y) {
  using Blocks = detail::PackedBlocks;
  constexpr std::size_t stride = 8 * Blocks::groups;
  const detail::TablePlanes<typename F::unpacked> table;
  const std::size_t panel_size = w.block * stride;
  auto scratch = ctx.template tensor<float, Rows, Rows>({ctx.threads().size(), panel_size + Blocks::rows * stride});
  ctx.parallel(w.rows / F::group, Blocks::groups, [&](std::size_t begin, std::size_t end, unsigned worker) {
    float* const panel = scratch[worker].data();
    float* const sums = panel + panel_size;
    for (std::size_t row = 0; row < x.rows; row += Blocks::rows) {
      const Matrix<const float> some{x[row], std::min(Blocks::rows, x.rows - row), x.width, x.stride};
      for (std::size_t first = begin; first < end;) {
        const std::size_t groups = end - first >= Blocks::groups ? Blocks::groups : 1;
        if (groups == 1) {
          detail::packed_product<1>(table, some, w, first, panel, sums);
        } else {
          detail::packed_product<Blocks::groups>(table, some, w, first, panel, sums);
        }
        for (std::size_t r = 0; r < some.rows; ++r) {
          for (std::size_t c = 0; c < groups * F::group; ++c) {
            const std::size_t column = first * F::group + c;
            epilogue.store(sums[r * stride + c], row + r, column, y[row + r][column]);
          }
        }
        first += groups;
      }
    }
  });
}

}  // namespace mllama::kernels
#endif
