// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

#include <mllama/core/format.hpp>
#include <mllama/kernels/x86/decode.hpp>

/// Decoding of a run of stored weights, fast: the same numbers as `Weights::decode`.

namespace mllama::kernels::detail {

/// Both elements of every byte of codes.
template <BlockFormat F>
inline constexpr auto pair_table = [] {
  std::array<std::array<float, 2>, 256> pairs{};
  for (std::size_t byte = 0; byte < 256; ++byte) pairs[byte] = {F::table[byte >> 4U], F::table[byte & 15U]};
  return pairs;
}();

/// `out[i] = table[code i] · scale` for the codes [first, first + count), two per byte.
template <BlockFormat F>
void decode_codes(const std::uint8_t* codes, std::size_t first, std::size_t count, float scale, float* out) {
  codes += first / 2;
  if (first % 2 != 0 && count != 0) {
    *out++ = F::table[*codes++ & 15U] * scale;
    --count;
  }
  std::size_t i = decode_codes_x86(F::table, codes, count / 2 * 2, scale, out);
  for (; i + 2 <= count; i += 2) {
    const auto& pair = pair_table<F>[codes[i / 2]];
    out[i] = pair[0] * scale;
    out[i + 1] = pair[1] * scale;
  }
  if (i < count) out[i] = F::table[codes[i / 2] >> 4U] * scale;
}

/// Elements [first, first + count) in row-major order.
template <BlockFormat F>
void decode_run(const Weights<F>& weights, std::size_t first, std::size_t count, float* out) {
  while (count != 0) {
    const std::size_t block = first / weights.block, some = std::min(count, (block + 1) * weights.block - first);
    decode_codes<F>(weights.codes, first, some, weights.scale(block), out);
    first += some;
    out += some;
    count -= some;
  }
}

template <PackedFormat F>
void decode_run(const Weights<F>& weights, std::size_t first, std::size_t count, float* out) {
  std::uint8_t bytes[2048 + 1];
  while (count != 0) {
    const std::size_t row = first / weights.columns, column = first % weights.columns;
    const std::size_t block_end = weights.block - column % weights.block;  // blocks do not span rows here
    const std::size_t some = std::min(count, block_end), begin = column / 2, end = (column + some + 1) / 2;
    for (std::size_t byte = begin; byte < end; ++byte)
      bytes[byte - begin] = weights.codes[F::place(row, byte, weights.columns / 2)];
    decode_codes<typename F::unpacked>(bytes, column % 2, some, weights.scale(first / weights.block), out);
    first += some;
    out += some;
    count -= some;
  }
}

template <RowFormat F>
void decode_run(const Weights<F>& weights, std::size_t first, std::size_t count, float* out) {
  weights.decode(first, {out, count});
}

template <DenseFormat F>
void decode_run(const Weights<F>& weights, std::size_t first, std::size_t count, float* out) {
  const auto* const from = weights.data + first;
  std::size_t i = 0;
  if constexpr (requires { decode_x86(F{}, from, count, out); }) i = decode_x86(F{}, from, count, out);
  for (; i < count; ++i) out[i] = F::decode(from[i]);
}

}  // namespace mllama::kernels::detail
