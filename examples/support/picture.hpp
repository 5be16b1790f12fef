// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

#include <mllama/core/check.hpp>
#include <mllama/vision/image.hpp>
#include <mllama/vision/resize.hpp>

#include "terminal.hpp"

namespace support {

namespace detail {

/// The colour of xterm's palette that is nearest: of a cube of 6 x 6 x 6, or of 24 greys.
inline unsigned palette_index(const std::uint8_t* rgb) {
  static constexpr std::array<int, 6> cube{0, 95, 135, 175, 215, 255};
  const auto nearest = [](int level) {  // the steps of the cube change half-way between its levels
    return level < 48 ? 0U : level < 115 ? 1U : static_cast<unsigned>((level - 35) / 40);
  };
  unsigned index = 16;
  int in_cube = 0, in_greys = 0;
  const int mean = (rgb[0] + rgb[1] + rgb[2]) / 3;
  const int grey = std::clamp((mean - 3) / 10, 0, 23);
  for (const unsigned channel : {0U, 1U, 2U}) {
    const int level = rgb[channel];
    const unsigned step = nearest(level);
    index += step * std::array{36U, 6U, 1U}[channel];
    in_cube += (level - cube[step]) * (level - cube[step]);
    in_greys += (level - 8 - 10 * grey) * (level - 8 - 10 * grey);
  }
  return in_greys < in_cube ? 232U + static_cast<unsigned>(grey) : index;
}

inline std::string colour(const std::uint8_t* rgb, Colours colours) {
  if (colours == Colours::palette) return mllama::concat("5;", palette_index(rgb));
  return mllama::concat("2;", rgb[0], ';', rgb[1], ';', rgb[2]);
}

}  // namespace detail

/// A picture as text: each character is two pixels, one above the other. It is shrunk until the terminal has room for it and for an
/// answer with its timings below, and never enlarged.
inline std::string half_blocks(const mllama::Image& picture, const Terminal& terminal) {
  const std::size_t columns = std::max<std::size_t>(terminal.columns, 2) - 1,
                    lines = std::clamp<std::size_t>(terminal.rows, 13, 33) - 9;
  std::size_t width = picture.width, height = picture.height;
  if (width > columns) {
    height = std::max<std::size_t>(height * columns / width, 1);
    width = columns;
  }
  if (height > 2 * lines) {
    width = std::max<std::size_t>(width * 2 * lines / height, 1);
    height = 2 * lines;
  }
  const mllama::Image small = mllama::resize_bilinear(picture, height, width);

  std::string text;
  for (std::size_t y = 0; y < height; y += 2) {
    std::string last_upper, last_lower;
    for (std::size_t x = 0; x < width; ++x) {
      std::string upper = detail::colour(small.row(y).data() + 3 * x, terminal.colours), lower;
      if (y + 1 < height) lower = detail::colour(small.row(y + 1).data() + 3 * x, terminal.colours);
      if (upper != last_upper) text += mllama::concat("\x1b[38;", upper, 'm');
      if (lower != last_lower) text += mllama::concat("\x1b[48;", lower, 'm');
      text += "▀";
      last_upper = std::move(upper);
      last_lower = std::move(lower);
    }
    text += "\x1b[0m\n";
  }
  return text;
}

}  // namespace support
