// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

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

/// How one side is resampled: sample `i` of the output is the weighted sum of `windows[i].count` samples from `windows[i].first`.
struct BilinearFilter {
  static constexpr int precision = 22;  ///< fraction bits of a weight: 32, less 8 of a pixel and 2 of headroom

  struct Window {
    std::size_t first;   ///< sample of the input
    std::size_t count;   ///< of samples and weights
    std::size_t weight;  ///< index of the first weight
  };
  std::vector<Window> windows;
  std::vector<std::int32_t> weights;

  /// A triangle as wide as the ratio of the lengths, never narrower than two samples; its weights sum to about 2^22.
  /// Every product is rounded by itself: a fused multiply-add changes rare weights.
  BilinearFilter(std::size_t from, std::size_t to) {
    const auto length = static_cast<double>(from);
    const double scale = length / static_cast<double>(to);
    const double support = std::max(scale, 1.0);
    const double inverse = 1.0 / support;
    windows.reserve(to);
    std::vector<double> window;
    for (std::size_t i = 0; i < to; ++i) {
      const double center = rounded((static_cast<double>(i) + 0.5) * scale);
      const auto first = static_cast<std::size_t>(std::max(0.0, center - support + 0.5));
      const auto end = static_cast<std::size_t>(std::min(length, center + support + 0.5));
      window.clear();
      double sum = 0;
      for (std::size_t x = first; x < end; ++x) {
        const double distance = rounded((static_cast<double>(x) - center + 0.5) * inverse);
        const double weight = std::max(0.0, 1.0 - (distance < 0 ? -distance : distance));
        window.push_back(weight);
        sum += weight;
      }
      windows.push_back({first, window.size(), weights.size()});
      for (const double weight : window) {
        weights.push_back(static_cast<std::int32_t>(0.5 + weight / sum * (1 << precision)));
      }
    }
  }

  [[nodiscard]] std::span<const std::int32_t> of(const Window& window) const noexcept {
    return {weights.data() + window.weight, window.count};
  }

  /// Where a sum starts. It cannot overflow: rounding at most doubles a weight that it does not clear, so weights sum to at most
  /// 2^23, and 255 * 2^23 + 2^21 < 2^31.
  static constexpr std::int32_t half = 1 << (precision - 1);
  static constexpr std::uint8_t to_byte(std::int32_t sum) noexcept {
    return static_cast<std::uint8_t>(std::min(sum >> precision, 255));
  }
};

inline Image resize_width(const Image& image, std::size_t width) {
  Image out(width, image.height);
  const BilinearFilter filter(image.width, width);
  for (std::size_t y = 0; y < image.height; ++y) {
    const std::uint8_t* const from = image.row(y).data();
    std::uint8_t* to = out.row(y).data();
    for (const BilinearFilter::Window& window : filter.windows) {
      const std::uint8_t* pixel = from + window.first * Image::channels;
      std::int32_t red = BilinearFilter::half, green = red, blue = red;
      for (const std::int32_t weight : filter.of(window)) {
        red += pixel[0] * weight;
        green += pixel[1] * weight;
        blue += pixel[2] * weight;
        pixel += Image::channels;
      }
      to[0] = BilinearFilter::to_byte(red);
      to[1] = BilinearFilter::to_byte(green);
      to[2] = BilinearFilter::to_byte(blue);
      to += Image::channels;
    }
  }
  return out;
}

inline Image resize_height(const Image& image, std::size_t height) {
  Image out(image.width, height);
  const BilinearFilter filter(image.height, height);
  std::vector<std::int32_t> sums(image.width * Image::channels);
  for (std::size_t y = 0; y < height; ++y) {
    const BilinearFilter::Window& window = filter.windows[y];
    std::fill(sums.begin(), sums.end(), BilinearFilter::half);
    std::size_t from = window.first;
    for (const std::int32_t weight : filter.of(window)) {
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
