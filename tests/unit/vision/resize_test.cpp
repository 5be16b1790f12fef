// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <cstdint>
#include <random>

#include <mllama/vision/resize.hpp>

using mllama::Image;
using mllama::PassOrder;
using mllama::resize_bilinear;

namespace {

Image noise(std::size_t width, std::size_t height, std::uint32_t seed) {
  Image image(width, height);
  std::mt19937 random(seed);
  for (std::uint8_t& level : image.pixels) level = static_cast<std::uint8_t>(random());
  return image;
}

Image transposed(const Image& image) {
  Image out(image.height, image.width);
  for (std::size_t y = 0; y < image.height; ++y) {
    for (std::size_t x = 0; x < 3 * image.width; ++x) out.row(x / 3)[3 * y + x % 3] = image.row(y)[x];
  }
  return out;
}

/// The weight of every sample, straight from the definition and with no product that could be fused.
std::vector<std::int32_t> weights_by_definition(std::size_t from, std::size_t to, std::size_t i) {
  const volatile double scale = static_cast<double>(from) / static_cast<double>(to);
  const volatile double support = scale < 1 ? 1.0 : scale, inverse = 1.0 / support;
  const volatile double center = (static_cast<double>(i) + 0.5) * scale;
  std::vector<std::int32_t> weights(from);
  std::vector<double> exact(from);
  const double low = center - support + 0.5, high = center + support + 0.5;
  volatile double sum = 0;
  for (std::size_t x = 0; x < from; ++x) {
    if (static_cast<std::int64_t>(x) < static_cast<std::int64_t>(low) ||
        static_cast<std::int64_t>(x) >= static_cast<std::int64_t>(high))
      continue;
    volatile double distance = (static_cast<double>(x) - center + 0.5) * inverse;
    if (distance < 0) distance = -distance;
    exact[x] = distance < 1 ? 1 - distance : 0;
    sum = sum + exact[x];
  }
  for (std::size_t x = 0; x < from; ++x) {
    volatile double fixed = exact[x] / sum * 4194304.0;
    weights[x] = static_cast<std::int32_t>(fixed + 0.5);
  }
  return weights;
}

}  // namespace

TEST_CASE("resize weights are those of the definition, whatever the compiler fuses") {
  const std::uint32_t seed = 11;
  CAPTURE(seed);
  std::mt19937 random(seed);
  for (int trial = 0; trial < 200; ++trial) {
    const std::size_t from = 1 + random() % 300, to = 1 + random() % 300;
    CAPTURE(from);
    CAPTURE(to);
    const mllama::detail::BilinearFilter filter(from, to);
    REQUIRE(filter.first.size() == to);
    bool equal = true;
    for (std::size_t i = 0; i < to; ++i) {
      std::vector<std::int32_t> found(from);
      std::size_t x = filter.first[i];
      REQUIRE(x + filter.taps <= from);
      for (const std::int32_t weight : filter.weights_of(i)) found[x++] = weight;
      equal = equal && found == weights_by_definition(from, to, i);
    }
    CHECK(equal);
  }
}

TEST_CASE("resize leaves a picture of the right size and a picture of one colour as they are") {
  const Image picture = noise(13, 7, 1);
  CHECK(resize_bilinear(picture, 7, 13) == picture);
  Image plain(40, 30);
  for (std::size_t i = 0; i < plain.pixels.size(); ++i) plain.pixels[i] = static_cast<std::uint8_t>(i % 3 * 127);
  for (const auto& [height, width] : {std::pair{1U, 1U}, {30U, 7U}, {100U, 3U}, {61U, 97U}}) {
    const Image out = resize_bilinear(plain, height, width);
    bool same = true;
    for (std::size_t i = 0; i < out.pixels.size(); ++i) same = same && out.pixels[i] == i % 3 * 127;
    CHECK(same);
  }
}

TEST_CASE("the two passes do the same along the two sides") {
  // One of them works on pairs of pixels where the processor can.
  for (std::size_t from = 1; from <= 67; ++from) {
    const Image picture = noise(from, 2, static_cast<std::uint32_t>(from));
    for (std::size_t to = 1; to <= 90; to += 1 + to / 8) {
      CAPTURE(from);
      CAPTURE(to);
      CHECK(resize_bilinear(transposed(picture), to, 2) == transposed(resize_bilinear(picture, 2, to)));
    }
  }
}

TEST_CASE("the order of the passes follows the release of Pillow") {
  const auto first = mllama::detail::height_first;
  CHECK_FALSE(first(PassOrder::horizontal_first, 2000, 2, 10, 1));
  CHECK(first(PassOrder::pillow_12_2, 2001, 20, 10, 1));
  CHECK_FALSE(first(PassOrder::pillow_12_2, 2000, 20, 10, 1));
  CHECK_FALSE(first(PassOrder::pillow_12_2, 2001, 20, 2001, 1));
  CHECK(first(PassOrder::pillow_13_0, 100, 50, 79, 40));
  CHECK_FALSE(first(PassOrder::pillow_13_0, 100, 50, 80, 40));
  CHECK(first(PassOrder::pillow_13_0, 100, 50, 99, 60));  // the width grows
  const Image picture = noise(20, 90, 3);
  CHECK_FALSE(resize_bilinear(picture, 40, 9) == resize_bilinear(picture, 40, 9, PassOrder::pillow_13_0));
  CHECK(resize_bilinear(picture, 40, 20) == resize_bilinear(picture, 40, 20, PassOrder::pillow_13_0));
}

TEST_CASE("resize of extreme shapes stays within its integers") {
  Image white(5'000'000, 1);
  for (std::uint8_t& level : white.pixels) level = 255;
  const Image out = resize_bilinear(white, 1, 1);
  CHECK(out.pixels[0] >= 254);
  CHECK(resize_bilinear(white, 1, 3).pixels.size() == 9);
}

TEST_CASE("resize refuses impossible sizes") {
  const Image picture = noise(3, 3, 4);
  CHECK_THROWS_AS((void)resize_bilinear(picture, 0, 3), mllama::input_error);
  CHECK_THROWS_AS((void)resize_bilinear(picture, 3, std::size_t{1} << 40U), mllama::input_error);
  CHECK_THROWS_AS((void)resize_bilinear(Image{}, 3, 3), mllama::input_error);
  Image wrong = picture;
  wrong.pixels.pop_back();
  CHECK_THROWS_WITH_AS((void)resize_bilinear(wrong, 2, 2), "image: expected 27 bytes for 3 x 3 RGB, found 26 bytes",
                       mllama::input_error);
}
