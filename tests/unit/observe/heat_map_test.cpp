// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <algorithm>
#include <limits>
#include <vector>

#include <mllama/observe/heat_map.hpp>

using namespace mllama;

namespace {

Image grey(std::size_t width, std::size_t height) {
  Image image(width, height);
  std::ranges::fill(image.pixels, std::uint8_t{100});
  return image;
}
int red(const Image& image, std::size_t x, std::size_t y) { return image.row(y)[3 * x]; }

}  // namespace

TEST_CASE("a picture is warm where the map is large, at its own size") {
  // 40 x 20 pixels, which the processor shrinks to 16 x 8 on a canvas of 16 x 16: patches of 4, two rows of which are beneath the picture.
  const Fit fit{{1, 1}, 8, 16};
  PatchMap map{4, 4, std::vector<float>(16, 0)};
  map.values[4 + 2] = 0.5;  // second row, third column: pixels 20 to 30 across, 10 to 20 down
  map.values[15] = 9;       // where the picture does not reach
  const Image image = draw_heat_map(grey(40, 20), map, fit, 4);
  CHECK(image.width == 40);
  CHECK(image.height == 20);
  std::size_t hottest = 0;
  for (std::size_t i = 0; i < 800; ++i) {
    if (red(image, i % 40, i / 40) > red(image, hottest % 40, hottest / 40)) hottest = i;
  }
  CHECK(hottest % 40 >= 20);
  CHECK(hottest % 40 < 30);
  CHECK(hottest / 40 >= 10);
  CHECK(red(image, 25, 15) > 200);
  CHECK(red(image, 25, 2) < 100);
  CHECK(red(image, 2, 15) == red(image, 2, 2));
  CHECK(red(image, 39, 19) < 100);  // far from what lies beneath
}

TEST_CASE("maps of zeros, of one value, and of what are no numbers") {
  const Fit fit{{1, 1}, 8, 8};
  for (const float value : {0.0F, std::numeric_limits<float>::quiet_NaN(), -1.0F}) {
    const Image image = draw_heat_map(grey(8, 8), PatchMap{2, 2, std::vector<float>(4, value)}, fit, 4);
    for (std::size_t i = 0; i < 64; ++i) CHECK(red(image, i % 8, i / 8) == red(image, 0, 0));
    CHECK(red(image, 0, 0) < 100);
  }
  const Image image = draw_heat_map(grey(3, 5), PatchMap{2, 2, {2, 2, 2, 2}}, fit, 4);
  CHECK(red(image, 1, 1) > 200);
  CHECK_THROWS_AS(static_cast<void>(draw_heat_map(grey(8, 8), PatchMap{1, 2, {0, 0}}, fit, 4)), input_error);
  CHECK_THROWS_AS(static_cast<void>(draw_heat_map(grey(8, 8), PatchMap{2, 2, {0, 0}}, fit, 4)), input_error);
  CHECK_THROWS_AS(static_cast<void>(draw_heat_map(Image{}, PatchMap{2, 2, {0, 0, 0, 0}}, fit, 4)), input_error);
}
