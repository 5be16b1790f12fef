// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include <mllama/core/check.hpp>
#include <mllama/observe/attention_maps.hpp>
#include <mllama/vision/image.hpp>
#include <mllama/vision/tiles.hpp>

namespace mllama {

namespace detail {
/// From black over violet, red and orange to light yellow: the more, the lighter, also in grey.
[[nodiscard]] inline std::array<float, 3> heat_colour(float share) {
  static constexpr std::array<std::array<float, 3>, 5> stops{
      {{0, 0, 4}, {87, 16, 110}, {188, 55, 84}, {249, 142, 9}, {252, 255, 164}}};
  const float at = std::clamp(share, 0.0F, 1.0F) * static_cast<float>(stops.size() - 1);
  const std::size_t stop = std::min(static_cast<std::size_t>(at), stops.size() - 2);
  std::array<float, 3> colour{};
  for (std::size_t c = 0; c < colour.size(); ++c) {
    colour[c] = stops[stop][c] + (at - static_cast<float>(stop)) * (stops[stop + 1][c] - stops[stop][c]);
  }
  return colour;
}
}  // namespace detail

/// A picture, darkened and grey, under the colours of a map: yellow where it is largest, between patches a mixture.
/// `fit` is where the processor puts the picture on its canvas; `patch` is the side of a patch, in pixels of the canvas.
/// Errors:  input_error if the map is not one of that canvas.
[[nodiscard]] inline Image draw_heat_map(const Image& picture, const PatchMap& map, const Fit& fit, std::size_t patch) {
  check_image(picture);
  check(map.values.size() == map.rows * map.columns && map.rows * patch >= fit.height && map.columns * patch >= fit.width &&
            fit.height >= 1 && fit.width >= 1,
        [&] {
          return Fault{.field = "patch map",
                       .expected = concat("one for ", fit.width, " x ", fit.height, " pixels"),
                       .found = concat(map.columns, " x ", map.rows, " patches of ", patch)};
        });
  float most = 0;  // of the patches that the picture reaches
  const std::size_t rows = (fit.height + patch - 1) / patch, columns = (fit.width + patch - 1) / patch;
  for (std::size_t row = 0; row < rows; ++row) {
    for (std::size_t column = 0; column < columns; ++column) most = std::max(most, map.at(row, column));
  }
  // A pixel of the picture in units of patches, from the middle of the first one: its two neighbours, and the weight of the second.
  struct Between {
    std::size_t first, second;
    float weight;
  };
  const auto between = [&](std::size_t pixel, std::size_t pixels, std::size_t fitted, std::size_t patches) {
    const double scale = static_cast<double>(fitted) / static_cast<double>(pixels) / static_cast<double>(patch);
    const double at = std::clamp((static_cast<double>(pixel) + 0.5) * scale - 0.5, 0.0, static_cast<double>(patches - 1));
    const auto first = static_cast<std::size_t>(at);
    return Between{first, std::min(first + 1, patches - 1), static_cast<float>(at - static_cast<double>(first))};
  };
  const auto mix = [](float a, float b, float weight) { return a + weight * (b - a); };
  Image out(picture.width, picture.height);
  for (std::size_t y = 0; y < picture.height; ++y) {
    const auto row = between(y, picture.height, fit.height, rows);
    for (std::size_t x = 0; x < picture.width; ++x) {
      const auto column = between(x, picture.width, fit.width, columns);
      const float value = mix(mix(map.at(row.first, column.first), map.at(row.first, column.second), column.weight),
                              mix(map.at(row.second, column.first), map.at(row.second, column.second), column.weight), row.weight);
      const float share = most > 0 && value >= 0 && value <= most ? value / most : 0;  // 0 also for what is not a number
      const std::uint8_t* const pixel = picture.row(y).data() + x * Image::channels;
      const std::array from{static_cast<float>(pixel[0]), static_cast<float>(pixel[1]), static_cast<float>(pixel[2])};
      const float grey = (0.3F * from[0] + 0.59F * from[1] + 0.11F * from[2]) * 0.45F;
      const auto colour = detail::heat_colour(share);
      for (std::size_t c = 0; c < Image::channels; ++c) {
        const float ground = mix(from[c], grey, 0.6F);
        out.row(y)[x * Image::channels + c] =
            static_cast<std::uint8_t>(std::lround(std::clamp(mix(ground, colour[c], 0.8F * std::sqrt(share)), 0.0F, 255.0F)));
      }
    }
  }
  return out;
}

}  // namespace mllama
