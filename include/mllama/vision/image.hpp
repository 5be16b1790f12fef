// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include <mllama/core/check.hpp>

namespace mllama {

/// An 8-bit RGB picture: rows from top to bottom, three bytes a pixel, nothing between rows.
struct Image {
  static constexpr std::size_t channels = 3;
  /// Sizes are at most this, so that positions are exact in double and fit 32 bits.
  static constexpr std::size_t longest_side = std::numeric_limits<std::int32_t>::max();

  std::size_t width = 0;
  std::size_t height = 0;
  std::vector<std::uint8_t> pixels;  ///< height x width x 3

  Image() = default;
  /// A black picture.
  Image(std::size_t width_, std::size_t height_) : width(width_), height(height_), pixels(bytes(width_, height_)) {}

  [[nodiscard]] std::span<std::uint8_t> row(std::size_t y) noexcept {
    return {pixels.data() + y * width * channels, width * channels};
  }
  [[nodiscard]] std::span<const std::uint8_t> row(std::size_t y) const noexcept {
    return {pixels.data() + y * width * channels, width * channels};
  }

  friend bool operator==(const Image&, const Image&) = default;

  /// Bytes of a picture of this size.
  /// Errors:  input_error if a side is zero or longer than `longest_side`, or the product does not fit.
  [[nodiscard]] static std::size_t bytes(std::size_t width, std::size_t height) {
    check(width >= 1 && height >= 1 && width <= longest_side && height <= longest_side &&
              width <= std::numeric_limits<std::size_t>::max() / 2 / channels / height,
          [&] {
            return Fault{.field = "image",
                         .expected = "at least one pixel each way, and a size that memory can hold",
                         .found = concat(width, " x ", height)};
          });
    return width * height * channels;
  }
};

/// Errors:  input_error if the sizes of `image` are not those of its pixels, or are zero.
inline void check_image(const Image& image) {
  const std::size_t expected = Image::bytes(image.width, image.height);
  check(image.pixels.size() == expected, [&] {
    return Fault{.field = "image",
                 .expected = concat(expected, " bytes for ", image.width, " x ", image.height, " RGB"),
                 .found = concat(image.pixels.size(), " bytes")};
  });
}

}  // namespace mllama
