// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>

#include <mllama/core/format.hpp>

/// Quantisation: from numbers to the bytes of a format. The bytes are those of bitsandbytes 0.50 on a CPU, but for the codes of
/// nested scales, which are the nearest ones here.

namespace mllama {

namespace detail {

/// Largest magnitude, NaN counting as larger than infinity: compared as integers, which the bits of magnitudes order.
[[nodiscard]] inline float largest_magnitude(std::span<const float> values) noexcept {
  std::uint32_t largest = 0;
  for (const float value : values) largest = std::max(largest, std::bit_cast<std::uint32_t>(value) & 0x7fffffffU);
  return std::bit_cast<float>(largest);
}

/// A number above the i-th of these has at least i + 1 smaller values in the table; a tie belongs to the smaller value.
template <BlockFormat F>
inline constexpr auto thresholds = [] {
  std::array<float, 15> middles{};
  for (std::size_t i = 0; i < middles.size(); ++i) middles[i] = (F::table[F::ascending[i]] + F::table[F::ascending[i + 1]]) / 2;
  return middles;
}();

/// The code of zero, which pads the last byte of an odd number of elements.
template <BlockFormat F>
inline constexpr std::uint8_t zero_code = static_cast<std::uint8_t>(std::ranges::find(F::table, 0.0F) - F::table.begin());

/// Codes, two per byte, of at most 64 numbers between -1 and 1 before they are clamped: `value · factor` or `value / divisor`.
template <BlockFormat F, class Normalise>
void encode_some(std::span<const float> values, Normalise&& normalise, std::uint8_t* codes) noexcept {
  constexpr std::size_t most = 64;
  float normal[most];
  std::int32_t above[most];
  const std::size_t count = values.size();
  for (std::size_t i = 0; i < count; ++i) normal[i] = std::clamp(normalise(values[i]), -1.0F, 1.0F);
  std::fill_n(above, count, 0);
  for (const float threshold : thresholds<F>) {
    for (std::size_t i = 0; i < count; ++i) above[i] += normal[i] > threshold ? 1 : 0;
  }
  const auto code = [&](std::size_t i) { return i < count ? F::ascending[static_cast<std::size_t>(above[i])] : zero_code<F>; };
  for (std::size_t i = 0; i < count; i += 2) codes[i / 2] = static_cast<std::uint8_t>(code(i) << 4U | code(i + 1));
}

}  // namespace detail

/// 4-bit codes and scales of consecutive elements of a tensor, from a block's beginning on; the last block may be cut short only
/// where the tensor ends.
/// Shapes:   values (n) -> codes ((n + 1) / 2 bytes), absmax (a scale per block, rounded up)
/// Returns:  false if a value is NaN or infinite; the codes of its block mean nothing then.
/// Source:   Dettmers et al. 2023 (arXiv:2305.14314); bitsandbytes `quantize_4bit`, default back end of 0.50: full blocks are
///           multiplied by a rounded reciprocal, the last short one is divided.
template <BlockFormat F>
[[nodiscard]] bool encode_blocks(std::span<const float> values, std::size_t block, std::uint8_t* codes, float* absmax) noexcept {
  constexpr float smallest = 1e-38F;
  constexpr std::size_t step = 64;  // blocks are half of this or multiples of it
  bool finite = true;
  for (std::size_t first = 0; first < values.size(); first += block) {
    const auto elements = values.subspan(first, std::min(block, values.size() - first));
    const float largest = detail::largest_magnitude(elements), bounded = std::max(largest, smallest);
    finite &= std::isfinite(largest);
    const bool is_short = elements.size() < block;
    *absmax++ = is_short ? bounded : largest;
    const float reciprocal = 1 / bounded;
    for (std::size_t i = 0; i < elements.size(); i += step) {
      const auto some = elements.subspan(i, std::min(step, elements.size() - i));
      std::uint8_t* const to = codes + (first + i) / 2;
      if (is_short) {
        detail::encode_some<F>(
            some, [&](float value) { return value / bounded; }, to);
      } else {
        detail::encode_some<F>(
            some, [&](float value) { return value * reciprocal; }, to);
      }
    }
  }
  return finite;
}

/// The values that nested scales are codes of: 127 positive and negative ones with up to seven binary digits below a power of ten,
/// zero, and one. Ascending; 127 is the code of zero.
/// Source:  Dettmers et al. 2021 (arXiv:2110.02861), dynamic tree quantisation; bitsandbytes `create_dynamic_map()`. The equally
///          spaced points are those of torch.linspace, with its fused operations.
[[nodiscard]] inline std::array<float, 256> dynamic_map() {
  std::array<float, 256> map{};
  map[255] = 1;
  constexpr std::array powers{1e-6F, 1e-5F, 1e-4F, 1e-3F, 1e-2F, 1e-1F, 1.0F};
  for (std::size_t digits = 0; digits < powers.size(); ++digits) {
    const std::size_t count = std::size_t{1} << digits;
    const float step = (1.0F - 0.1F) / static_cast<float>(count);
    const auto point = [&](std::size_t k) {
      return k < (count + 1) / 2 ? std::fma(step, static_cast<float>(k), 0.1F)
                                 : std::fma(-step, static_cast<float>(count - k), 1.0F);
    };
    for (std::size_t k = 0; k < count; ++k) {
      const float value = powers[digits] * ((point(k) + point(k + 1)) / 2);
      map[127 + count + k] = value;
      map[127 - count - k] = -value;
    }
  }
  return map;
}

/// Codes of scales: the nearest of the dynamic map's values times the largest magnitude of a group, ties to the even code, after
/// the scales' mean has been taken off.
/// Shapes:   absmax (blocks) -> codes (blocks), group_absmax (a scale per 256 blocks, rounded up)
/// Returns:  the mean
/// Source:   bitsandbytes `quantize_4bit(compress_statistics=True)`; its CPU code looks values up in a coarser table and misses the
///           nearest one now and then
[[nodiscard]] inline float encode_scales(std::span<const float> absmax, std::uint8_t* codes, float* group_absmax) {
  constexpr std::size_t group = 256;
  const std::array<float, 256> map = dynamic_map();
  std::array<float, 255> middles{};
  for (std::size_t i = 0; i < middles.size(); ++i) middles[i] = (map[i] + map[i + 1]) * 0.5F;
  double sum = 0;
  for (const float scale : absmax) sum += double{scale};
  const auto mean = static_cast<float>(sum / static_cast<double>(std::max<std::size_t>(absmax.size(), 1)));
  std::array<float, group> differences{};
  for (std::size_t first = 0; first < absmax.size(); first += group) {
    const std::size_t count = std::min(group, absmax.size() - first);
    for (std::size_t i = 0; i < count; ++i) differences[i] = absmax[first + i] - mean;
    const float largest = detail::largest_magnitude({differences.data(), count});
    *group_absmax++ = largest;
    for (std::size_t i = 0; i < count; ++i) {
      const float value = largest > 0 ? differences[i] / largest : 0.0F;
      auto code = static_cast<std::size_t>(std::lower_bound(middles.begin(), middles.end(), value) - middles.begin());
      if (code < middles.size() && middles[code] == value) code += code % 2;
      codes[first + i] = static_cast<std::uint8_t>(code);
    }
  }
  return mean;
}

/// Signed bytes of a row and its scale, the largest magnitude.
/// Shapes:   values (n) -> codes (n)
/// Returns:  the scale. NaN or infinite if a value is, or is beyond binary16; the codes are 0 then. 0 for a row of zeros.
/// Source:   Dettmers et al. 2022 (arXiv:2208.07339); bitsandbytes `int8_vectorwise_quant`, which takes binary16
[[nodiscard]] inline float encode_row(std::span<const float> values, std::int8_t* codes) noexcept {
  std::uint32_t bits = 0;
  for (const float value : values)
    bits = std::max(bits, std::bit_cast<std::uint32_t>(F16::decode(F16::encode(value))) & 0x7fffffffU);
  const auto largest = std::bit_cast<float>(bits);
  if (!(largest <= std::numeric_limits<float>::max())) {
    std::fill_n(codes, values.size(), std::int8_t{0});
    return largest;
  }
  const float factor = largest > 0 ? 1 / largest * 127 : 0.0F;  // two roundings: torch divides a number by a tensor in this way
  for (std::size_t i = 0; i < values.size(); ++i) {
    const float half = F16::decode(F16::encode(values[i]));
    codes[i] = static_cast<std::int8_t>(static_cast<std::int32_t>(std::nearbyint(half * factor)));  // ties to even
  }
  return largest;
}

}  // namespace mllama
