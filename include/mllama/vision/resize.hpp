// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#if defined(__x86_64__) && !defined(__CUDACC__)
#include <immintrin.h>
#endif

#include <mllama/core/check.hpp>
#include <mllama/core/rounding.hpp>
#include <mllama/vision/image.hpp>

/// Pillow's bilinear resize, bit for bit: the processor was trained behind it, and one level of one pixel is visible in the logits.

namespace mllama {

/// Both sides are resized one after the other, with a rounding to 8 bits in between, so the order shows in the last bit.
/// Pillow's releases differ in it.
enum class PassOrder {
  horizontal_first,  ///< up to 12.1: always the width first
  pillow_12_2,       ///< 12.2 and 12.3: the height first if it shrinks and is more than 100 widths
  pillow_13_0,       ///< from 13.0: the height first if it loses more than twice the rows that the width loses columns
};

namespace detail {

/// How one side is resampled: sample `i` of the output is the sum of `taps` samples of the input from `first[i]` on, by the weights from
/// `i · taps` on. Some of these are 0: with as many for every sample, the processor foresees where loops end.
struct BilinearFilter {
  static constexpr int precision = 22;  ///< fraction bits of a weight: 32, less 8 of a pixel and 2 of headroom

  std::size_t taps = 0;
  std::vector<std::size_t> first;
  std::vector<std::int32_t> weights;

  /// A triangle as wide as the ratio of the lengths, never narrower than two samples; its weights sum to about 2^22.
  /// Every product is rounded by itself: a fused multiply-add changes rare weights.
  BilinearFilter(std::size_t from, std::size_t to) {
    const auto length = static_cast<double>(from);
    const double scale = length / static_cast<double>(to);
    const double support = std::max(scale, 1.0);
    const double inverse = 1.0 / support;
    std::vector<std::size_t> end;
    first.reserve(to);
    end.reserve(to);
    for (std::size_t i = 0; i < to; ++i) {
      const double center = center_of(i, scale);
      first.push_back(static_cast<std::size_t>(std::max(0.0, center - support + 0.5)));
      end.push_back(static_cast<std::size_t>(std::min(length, center + support + 0.5)));
      taps = std::max(taps, end.back() - first.back());
    }
    taps = std::min(from, (taps + 3) / 4 * 4);
    weights.assign(to * taps, 0);
    std::vector<double> window;
    for (std::size_t i = 0; i < to; ++i) {
      const double center = center_of(i, scale);
      window.clear();
      double sum = 0;
      for (std::size_t x = first[i]; x < end[i]; ++x) {
        const double distance = rounded((static_cast<double>(x) - center + 0.5) * inverse);
        const double weight = std::max(0.0, 1.0 - (distance < 0 ? -distance : distance));
        window.push_back(weight);
        sum += weight;
      }
      const std::size_t begin = first[i];
      first[i] = std::min(begin, from - taps);
      std::transform(window.begin(), window.end(), weights.begin() + static_cast<std::ptrdiff_t>(i * taps + begin - first[i]),
                     [sum](double weight) { return static_cast<std::int32_t>(0.5 + weight / sum * (1 << precision)); });
    }
  }

  static double center_of(std::size_t i, double scale) noexcept { return rounded((static_cast<double>(i) + 0.5) * scale); }

  [[nodiscard]] std::span<const std::int32_t> weights_of(std::size_t i) const noexcept {
    return std::span(weights).subspan(i * taps, taps);
  }

  /// Where a sum starts. It cannot overflow: rounding at most doubles a weight that it does not clear, so weights sum to at most
  /// 2^23, and 255 * 2^23 + 2^21 < 2^31.
  static constexpr std::int32_t half = 1 << (precision - 1);
  static constexpr std::uint8_t to_byte(std::int32_t sum) noexcept {
    return static_cast<std::uint8_t>(std::min(sum >> precision, 255));
  }
};

/// Pixels [begin, end) of a row of the output.
inline void weigh_pixels(const BilinearFilter& filter, std::size_t begin, std::size_t end, const std::uint8_t* from,
                         std::uint8_t* to) {
  for (std::size_t x = begin; x < end; ++x) {
    const std::uint8_t* pixel = from + filter.first[x] * Image::channels;
    std::int32_t red = BilinearFilter::half, green = red, blue = red;
    for (const std::int32_t weight : filter.weights_of(x)) {
      red += pixel[0] * weight;
      green += pixel[1] * weight;
      blue += pixel[2] * weight;
      pixel += Image::channels;
    }
    to[x * Image::channels] = BilinearFilter::to_byte(red);
    to[x * Image::channels + 1] = BilinearFilter::to_byte(green);
    to[x * Image::channels + 2] = BilinearFilter::to_byte(blue);
  }
}

#if defined(__x86_64__) && !defined(__CUDACC__)
/// Weights for products of pairs: of four taps, the upper bits of each, four times, one for each byte of a pixel, and the 11 lower bits.
/// What a vector adds up with the upper bits counts 2^11 times; nothing is rounded.
struct PairWeights {
  static constexpr int low_bits = 11;
  std::vector<std::array<std::int16_t, 32>> groups;

  explicit PairWeights(const BilinearFilter& filter) : groups(filter.weights.size() / 4) {
    for (std::size_t i = 0; i < filter.weights.size(); ++i) {
      auto& group = groups[i / 4];
      for (std::size_t c = 0; c < 4; ++c) {
        const std::size_t place = i % 4 / 2 * 8 + c * 2 + i % 2;
        group[place] = static_cast<std::int16_t>(filter.weights[i] >> low_bits);
        group[place + 16] = static_cast<std::int16_t>(filter.weights[i] & ((1 << low_bits) - 1));
      }
    }
  }
};

/// The first `count` pixels, four taps at a time. Reads 4 bytes behind each of them, and writes a byte behind each pixel.
[[gnu::target("avx2")]] inline void weigh_first_pixels(const BilinearFilter& filter, const PairWeights& weights, std::size_t count,
                                                       const std::uint8_t* from, std::uint8_t* to) {
  // Of four pixels: the first two in one half, the others in the other one; channels of each two side by side, as numbers of 16 bits.
  const __m256i pairs = _mm256_setr_epi8(0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1,  //
                                         6, -1, 9, -1, 7, -1, 10, -1, 8, -1, 11, -1, -1, -1, -1, -1);
  const auto* weight = reinterpret_cast<const __m256i*>(weights.groups.data());
  for (std::size_t x = 0; x < count; ++x) {
    const std::uint8_t* pixel = from + filter.first[x] * Image::channels;
    __m256i upper = _mm256_setzero_si256(), lower = upper;
    for (std::size_t k = 0; k < filter.taps; k += 4) {
      const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(pixel));
      const __m256i values = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(bytes), pairs);
      upper = _mm256_add_epi32(upper, _mm256_madd_epi16(values, _mm256_loadu_si256(weight)));
      lower = _mm256_add_epi32(lower, _mm256_madd_epi16(values, _mm256_loadu_si256(weight + 1)));
      pixel += 4 * Image::channels;
      weight += 2;
    }
    const __m256i halves = _mm256_add_epi32(_mm256_slli_epi32(upper, PairWeights::low_bits), lower);
    __m128i sums = _mm_add_epi32(_mm256_castsi256_si128(halves), _mm256_extracti128_si256(halves, 1));
    sums = _mm_srai_epi32(_mm_add_epi32(sums, _mm_set1_epi32(BilinearFilter::half)), BilinearFilter::precision);
    const __m128i words = _mm_packus_epi32(sums, sums);
    _mm_storeu_si32(to + x * Image::channels, _mm_packus_epi16(words, words));
  }
}
#endif

inline Image resize_width(const Image& image, std::size_t width) {
  Image out(width, image.height);
  const BilinearFilter filter(image.width, width);
  std::size_t inside = 0;
#if defined(__x86_64__) && !defined(__CUDACC__)
  std::optional<PairWeights> pairs;
  if (__builtin_cpu_supports("avx2") != 0 && filter.taps % 4 == 0) {
    pairs.emplace(filter);
    // Pixels before those whose last four taps end less than two pixels before the row does.
    const std::size_t last = image.width - std::min(image.width, filter.taps + 1);
    inside = static_cast<std::size_t>(std::ranges::lower_bound(filter.first, last) - filter.first.begin());
    inside = std::min(inside, width - 1);
  }
#endif
  for (std::size_t y = 0; y < image.height; ++y) {
    const std::uint8_t* const from = image.row(y).data();
    std::uint8_t* const to = out.row(y).data();
#if defined(__x86_64__) && !defined(__CUDACC__)
    if (inside != 0) weigh_first_pixels(filter, *pairs, inside, from, to);
#endif
    weigh_pixels(filter, inside, width, from, to);
  }
  return out;
}

inline Image resize_height(const Image& image, std::size_t height) {
  Image out(image.width, height);
  const BilinearFilter filter(image.height, height);
  std::vector<std::int32_t> sums(image.width * Image::channels);
  for (std::size_t y = 0; y < height; ++y) {
    std::fill(sums.begin(), sums.end(), BilinearFilter::half);
    std::size_t from = filter.first[y];
    for (const std::int32_t weight : filter.weights_of(y)) {
      const std::span<const std::uint8_t> row = image.row(from++);
      for (std::size_t x = 0; x < row.size(); ++x) sums[x] += row[x] * weight;
    }
    std::transform(sums.begin(), sums.end(), out.row(y).begin(), BilinearFilter::to_byte);
  }
  return out;
}

[[nodiscard]] constexpr bool height_first(PassOrder order, std::size_t height, std::size_t width, std::size_t new_height,
                                          std::size_t new_width) noexcept {
  if (new_height >= height) return false;
  switch (order) {
    case PassOrder::horizontal_first:
      return false;
    case PassOrder::pillow_12_2:
      return height / 100 >= width && height > 100 * width;
    case PassOrder::pillow_13_0:
      return static_cast<std::int64_t>(height - new_height) >
             2 * (static_cast<std::int64_t>(width) - static_cast<std::int64_t>(new_width));
  }
  return false;
}

}  // namespace detail

/// `image` in another size, as Pillow's `Image.resize((width, height), BILINEAR)` makes it: a triangle filter that widens when it
/// shrinks, each side by itself, each channel by itself, rounded to 8 bits after each side. A side that keeps its length is
/// not touched.
/// Errors:  input_error if a size is zero, or the pixels of `image` are not as many as its sizes say.
/// Source:  Pillow, ImagingResample for 8-bit channels.
[[nodiscard]] inline Image resize_bilinear(const Image& image, std::size_t height, std::size_t width,
                                           PassOrder order = PassOrder::horizontal_first) {
  check_image(image);
  static_cast<void>(Image::bytes(width, height));
  if (width == image.width) return height == image.height ? image : detail::resize_height(image, height);
  if (height == image.height) return detail::resize_width(image, width);
  if (detail::height_first(order, image.height, image.width, height, width)) {
    return detail::resize_width(detail::resize_height(image, height), width);
  }
  return detail::resize_height(detail::resize_width(image, width), height);
}

}  // namespace mllama
