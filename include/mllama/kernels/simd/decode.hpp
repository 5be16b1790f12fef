// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include <mllama/core/format.hpp>
#include <mllama/kernels/x86/decode.hpp>

/// Decoding of a run of stored weights, fast: the same bits as `Weights::decode`.

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

/// IEEE binary16 without a branch, so that the loop below becomes vectors.
inline float decode_element(F16, std::uint16_t value) noexcept {
  const std::uint32_t magnitude = (value & 0x7fffU) << 13U, sign = (value & 0x8000U) << 16U;
  // As binary32 the exponent is 112 too small; the product is exact, subnormals included.
  const std::uint32_t finite = std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) * 0x1p112F);
  const std::uint32_t special = magnitude >= 0x0f800000U ? 0x7f800000U : 0U;  // infinities and NaNs keep their fraction
  return std::bit_cast<float>(sign | (special != 0 ? special | magnitude : finite));
}
template <DenseFormat F>
float decode_element(F, typename F::stored value) noexcept {
  return F::decode(value);
}

template <DenseFormat F>
void decode_run(const Weights<F>& weights, std::size_t first, std::size_t count, float* out) {
  const typename F::stored* const from = weights.data + first;
  constexpr std::size_t lanes = 16;
  std::size_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    // Local copies: the compiler need not prove that input and output are apart.
    typename F::stored stored[lanes];
    float decoded[lanes];
    std::memcpy(stored, from + i, sizeof stored);
    for (std::size_t j = 0; j < lanes; ++j) decoded[j] = decode_element(F{}, stored[j]);
    std::memcpy(out + i, decoded, sizeof decoded);
  }
  for (; i < count; ++i) out[i] = decode_element(F{}, from[i]);
}

}  // namespace mllama::kernels::detail
