// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

#include <mllama/core/check.hpp>

/// Which canvas of square tiles a picture is put on, and at which size: pure arithmetic, no pixels.
/// Source:  transformers' MllamaImageProcessor (get_all_supported_aspect_ratios, get_optimal_tiled_canvas,
///          get_image_size_fit_to_canvas of 4.50 and later), in the same doubles, so that ties fall the same way.

namespace mllama {

/// A canvas: tiles high, tiles wide. What configuration files call an aspect ratio.
struct Canvas {
  std::size_t rows = 1;
  std::size_t columns = 1;

  [[nodiscard]] constexpr std::size_t tiles() const noexcept { return rows * columns; }
  friend constexpr bool operator==(const Canvas&, const Canvas&) = default;
};

/// All canvases of at most `max_tiles` tiles, in the order that aspect ratio ids count: for 4 these are
/// 1x1 1x2 1x3 1x4 2x1 2x2 3x1 4x1 (rows x columns).
[[nodiscard]] constexpr std::vector<Canvas> canvases(std::size_t max_tiles) {
  std::vector<Canvas> all;
  for (std::size_t rows = 1; rows <= max_tiles; ++rows) {
    for (std::size_t columns = 1; columns <= max_tiles / rows; ++columns) all.push_back({rows, columns});
  }
  return all;
}

/// The id of a canvas: 1 + its place in `canvases(max_tiles)`. 0, which no canvas has, is the id of "no picture".
/// The processor counts by its own `max_image_tiles`, whatever list of aspect ratios the model's configuration has.
/// Errors:  input_error if `max_tiles` tiles do not make this canvas.
[[nodiscard]] inline std::size_t aspect_ratio_id(Canvas canvas, std::size_t max_tiles) {
  check(canvas.rows >= 1 && canvas.columns >= 1 && canvas.rows <= max_tiles && canvas.columns <= max_tiles / canvas.rows, [&] {
    return Fault{.field = "aspect ratio",
                 .expected = concat("at most ", max_tiles, " tiles"),
                 .found = concat(canvas.rows, " x ", canvas.columns)};
  });
  std::size_t id = canvas.columns;
  for (std::size_t rows = 1; rows < canvas.rows; ++rows) id += max_tiles / rows;
  return id;
}

/// The canvas for a picture: the one on which it is enlarged least, or, if it fits on none, the one on which it is shrunk least;
/// of several, the one with the fewest tiles, then the first.
/// Shapes:  sizes in pixels, all at least 1; `tile` is the side of a tile.
[[nodiscard]] constexpr Canvas choose_canvas(std::size_t height, std::size_t width, std::size_t tile, std::size_t max_tiles) {
  Canvas best;
  double best_scale = 0;
  for (std::size_t rows = 1; rows <= max_tiles; ++rows) {
    for (std::size_t columns = 1; columns <= max_tiles / rows; ++columns) {
      const double scale = std::min(static_cast<double>(rows * tile) / static_cast<double>(height),
                                    static_cast<double>(columns * tile) / static_cast<double>(width));
      const bool better = scale >= 1 ? best_scale < 1 || scale < best_scale : scale > best_scale;
      if (better || (scale == best_scale && rows * columns < best.tiles())) {
        best = {rows, columns};
        best_scale = scale;
      }
    }
  }
  return best;
}

/// Where a picture goes: its canvas, and its size on it, in pixels.
struct Fit {
  Canvas canvas;
  std::size_t height = 0;
  std::size_t width = 0;

  friend constexpr bool operator==(const Fit&, const Fit&) = default;
};

/// The canvas and the size of a picture on it: as large as the canvas allows, but enlarged only until one side is a tile long.
/// Keeps the aspect ratio, as far as whole pixels do.
/// Errors:  input_error if a size is zero.
[[nodiscard]] inline Fit fit_to_tiles(std::size_t height, std::size_t width, std::size_t tile, std::size_t max_tiles) {
  check(height >= 1 && width >= 1 && tile >= 1 && max_tiles >= 1, [&] {
    return Fault{.field = "image",
                 .expected = "sizes of at least 1",
                 .found = concat(width, " x ", height, " pixels, tiles of ", tile, ", ", max_tiles, " of them")};
  });
  const Canvas canvas = choose_canvas(height, width, tile, max_tiles);
  const std::size_t most_width = std::clamp(width, tile, canvas.columns * tile);
  const std::size_t most_height = std::clamp(height, tile, canvas.rows * tile);
  const double width_scale = static_cast<double>(most_width) / static_cast<double>(width);
  const double height_scale = static_cast<double>(most_height) / static_cast<double>(height);
  // Conversion to an integer is the floor of the positive product.
  const auto scaled = [](std::size_t length, double scale, std::size_t most) {
    return std::min(std::max<std::size_t>(1, static_cast<std::size_t>(static_cast<double>(length) * scale)), most);
  };
  if (width_scale < height_scale) return {canvas, scaled(height, width_scale, most_height), most_width};
  return {canvas, most_height, scaled(width, height_scale, most_width)};
}

}  // namespace mllama
