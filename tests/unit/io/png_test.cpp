// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <random>

#include <mllama/io/image.hpp>
#include <mllama/io/png.hpp>

#include "temporary_folder.hpp"

using namespace mllama;
using mllama_test::TemporaryFolder;

TEST_CASE("a PNG is read as it was written") {
  std::minstd_rand random(3);
  const TemporaryFolder folder;
  for (const std::size_t width : {1U, 2U, 63U, 200U}) {
    for (const std::size_t height : {1U, 17U, 150U}) {
      Image image(width, height);
      for (std::uint8_t& level : image.pixels) level = static_cast<std::uint8_t>(width == 63 ? random() % 256 : width);
      CHECK(decode_image(encode_png(image), "a.png") == image);
      write_png(folder / "a.png", image);
      CHECK(read_image(folder / "a.png") == image);
    }
  }
  CHECK_THROWS_AS(write_png(folder / "nowhere/a.png", Image(1, 1)), file_error);
}

TEST_CASE("what is no picture, or too large for the encoder, is refused") {
  CHECK_THROWS_AS(static_cast<void>(encode_png(Image{})), input_error);
  Image image(2, 2);
  image.pixels.pop_back();
  CHECK_THROWS_AS(static_cast<void>(encode_png(image)), input_error);
  CHECK_THROWS_AS(static_cast<void>(encode_png(Image(1, (std::size_t{1} << 29U) / 4 + 1))), input_error);
}
