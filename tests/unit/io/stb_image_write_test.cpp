// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <cstddef>

// A program's own stb_image_write, with other settings, beside the library's: declared before it, defined after it.
#define STBI_WRITE_NO_STDIO
#include <stb/stb_image_write.h>

#include <mllama/io/png.hpp>

#if !defined(STBI_WRITE_NO_STDIO) || !defined(INCLUDE_STB_IMAGE_WRITE_H) || defined(STB_IMAGE_WRITE_STATIC) || \
    defined(STB_IMAGE_WRITE_IMPLEMENTATION) || defined(STBIW_MALLOC)
#error "the library's settings of stb_image_write have leaked, or the program's are lost"
#endif

#define STB_IMAGE_WRITE_IMPLEMENTATION
#include <stb/stb_image_write.h>

TEST_CASE("a program's own stb_image_write and the library's do not meet") {
  stbi_write_png_compression_level = 1;
  stbi_flip_vertically_on_write(1);
  mllama::Image image(2, 2);
  image.pixels = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
  std::size_t own = 0;
  const auto count = [](void* size, void*, int more) { *static_cast<std::size_t*>(size) += static_cast<std::size_t>(more); };
  CHECK(stbi_write_png_to_func(count, &own, 2, 2, 3, image.pixels.data(), 6) != 0);
  CHECK(own > 50);
  const auto upright = mllama::encode_png(image);
  stbi_flip_vertically_on_write(0);
  CHECK(mllama::encode_png(image) == upright);
}
