// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <mllama/core/check.hpp>
#include <mllama/io/output_file.hpp>
#include <mllama/io/stb_image_write.hpp>
#include <mllama/vision/image.hpp>

namespace mllama {

/// The bytes of a PNG file.
/// Errors:  input_error if the sizes of `image` are not those of its pixels, or it has more than 512 MiB of them.
[[nodiscard]] inline std::vector<std::byte> encode_png(const Image& image) {
  check_image(image);
  constexpr std::size_t most = std::size_t{1} << 29U;  // the encoder counts in int, and doubles its memory when it needs more
  check(image.pixels.size() <= most && image.height <= most && image.pixels.size() + image.height <= most, [&] {
    return Fault{.field = "image",
                 .expected = concat("at most ", most, " bytes"),
                 .found = concat(image.width, " x ", image.height, " pixels")};
  });
  const auto whole = [](std::size_t number) { return static_cast<int>(number); };
  int size = 0;
  const std::unique_ptr<unsigned char, void (*)(void*)> bytes(
      detail::stb_write::stbi_write_png_to_mem(image.pixels.data(), whole(image.width * Image::channels), whole(image.width),
                                               whole(image.height), Image::channels, &size),
      std::free);
  if (bytes == nullptr) throw std::bad_alloc();
  const auto all = std::as_bytes(std::span(bytes.get(), static_cast<std::size_t>(size)));
  return {all.begin(), all.end()};
}

/// Errors:  those of encode_png; file_error, with the system's reason; the file is complete or not there.
inline void write_png(const std::string& path, const Image& image) {
  const std::vector<std::byte> bytes = encode_png(image);
  OutputFile file(path);
  file.write(bytes);
  file.commit();
}

}  // namespace mllama
