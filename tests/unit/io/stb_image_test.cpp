// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <string>

// A program's own stb_image, with other settings, beside the library's: declared before it, defined after it.
#define STBI_NO_PNG
#include <stb/stb_image.h>

#include <mllama/io/image.hpp>

#if !defined(STBI_NO_PNG) || defined(STBI_NO_BMP) || defined(STB_IMAGE_STATIC) || defined(STB_IMAGE_IMPLEMENTATION)
#error "the library's settings of stb_image have leaked, or the program's are lost"
#endif

#define STB_IMAGE_IMPLEMENTATION
#include <stb/stb_image.h>

TEST_CASE("a program's own stb_image and the library's do not meet") {
  const std::string jpeg = MLLAMA_TEST_DATA "/golden/images/grey.jpg", png = MLLAMA_TEST_DATA "/golden/processor/rgb_3x3.png";
  int width = 0, height = 0, channels = 0;
  stbi_uc* const levels = stbi_load(jpeg.c_str(), &width, &height, &channels, 0);
  REQUIRE(levels != nullptr);
  stbi_image_free(levels);
  CHECK(mllama::read_image(jpeg).width == static_cast<std::size_t>(width));
  CHECK(stbi_load(png.c_str(), &width, &height, &channels, 0) == nullptr);
  CHECK(mllama::read_image(png).width == 3);
}
