// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <fstream>
#include <string>

#include <mllama/vision/tiles.hpp>

using mllama::Canvas;
using mllama::fit_to_tiles;

TEST_CASE("canvases are enumerated by rows, then columns") {
  const std::vector<Canvas> four{{1, 1}, {1, 2}, {1, 3}, {1, 4}, {2, 1}, {2, 2}, {3, 1}, {4, 1}};
  CHECK(mllama::canvases(4) == four);
  static_assert(mllama::canvases(1).size() == 1);
  for (std::size_t max_tiles = 1; max_tiles <= 12; ++max_tiles) {
    const std::vector<Canvas> all = mllama::canvases(max_tiles);
    for (std::size_t i = 0; i < all.size(); ++i) CHECK(mllama::aspect_ratio_id(all[i], max_tiles) == i + 1);
  }
  CHECK_THROWS_AS((void)mllama::aspect_ratio_id({2, 3}, 4), mllama::input_error);
  CHECK_THROWS_AS((void)mllama::aspect_ratio_id({0, 1}, 4), mllama::input_error);
}

TEST_CASE("pictures on canvases of tiles of 560 pixels") {
  struct Row {
    std::size_t width, height;
    Canvas canvas;
    std::size_t new_height, new_width, id;
  };
  for (const Row& row : {Row{560, 560, {1, 1}, 560, 560, 1},
                         {561, 560, {1, 2}, 560, 561, 2},
                         {640, 480, {1, 2}, 480, 640, 2},
                         {1024, 768, {2, 2}, 768, 1024, 6},
                         {1920, 1080, {2, 2}, 630, 1120, 6},
                         {300, 200, {1, 1}, 373, 560, 1},
                         {200, 1500, {3, 1}, 1500, 200, 7},
                         {3000, 400, {1, 4}, 298, 2240, 4},
                         {4000, 3000, {2, 2}, 840, 1120, 6},
                         {1121, 1120, {2, 2}, 1119, 1120, 6},
                         {9999999, 1, {1, 4}, 1, 2240, 4}}) {
    CAPTURE(row.width);
    CAPTURE(row.height);
    const mllama::Fit fit = fit_to_tiles(row.height, row.width, 560, 4);
    CHECK(fit == mllama::Fit{row.canvas, row.new_height, row.new_width});
    CHECK(mllama::aspect_ratio_id(fit.canvas, 4) == row.id);
  }
}

TEST_CASE("canvases and sizes are Hugging Face's") {
  std::ifstream table(MLLAMA_TEST_DATA "/golden/processor/canvases.tsv");
  std::string header;
  REQUIRE(std::getline(table, header));
  std::size_t width = 0, height = 0, tile = 0, max_tiles = 0, rows = 0, count = 0;
  for (mllama::Fit expected;
       table >> width >> height >> tile >> max_tiles >> rows >> expected.canvas.columns >> expected.height >> expected.width;
       ++count) {
    expected.canvas.rows = rows;
    CAPTURE(width);
    CAPTURE(height);
    CAPTURE(tile);
    CAPTURE(max_tiles);
    CHECK(fit_to_tiles(height, width, tile, max_tiles) == expected);
  }
  CHECK(count >= 500);
}

TEST_CASE("sizes of zero do not fit") {
  CHECK_THROWS_AS((void)fit_to_tiles(0, 5, 5, 1), mllama::input_error);
  CHECK_THROWS_AS((void)fit_to_tiles(5, 0, 5, 1), mllama::input_error);
  CHECK_THROWS_AS((void)fit_to_tiles(5, 5, 5, 0), mllama::input_error);
}
