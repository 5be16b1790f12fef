// SPDX-License-Identifier: MIT
// A picture file: PNG, JPEG or PNM. The checksums of a PNG are put right, or no change to one would get any further.
#include <algorithm>
#include <filesystem>
#include <mllama/io/image.hpp>
#include <mllama/vision/processor.hpp>
#include <span>

#include "fuzz.hpp"

using mllama_fuzz::require;
using mllama_fuzz::takes;

namespace {

constexpr mllama::ImageLimits limits{.pixels = 1U << 14U, .bytes = 1U << 20U};

std::string with_checksums(std::string png) {
  const auto bytes = std::as_writable_bytes(std::span(png));
  for (std::size_t at = mllama::detail::png_signature.size(); bytes.size() - at >= 12;) {
    const std::size_t length = mllama::detail::ImageBytes(bytes.subspan(at, 4), "", "").big_endian(4);
    if (length > bytes.size() - at - 12) break;
    mllama::detail::Crc32 crc;
    crc.add(bytes.subspan(at + 4, 4 + length));
    for (unsigned i = 0; i < 4; ++i) bytes[at + 8 + length + i] = static_cast<std::byte>(crc.value() >> (24 - 8 * i));
    at += 12 + length;
  }
  return png;
}

void decode(std::string_view file) {
  static const mllama::ImageProcessor processor({.tile = 16, .max_tiles = 4});
  takes([&] {
    const mllama::Image image = mllama::decode_image(std::as_bytes(std::span(file)), "file", limits);
    require(image.width * image.height <= limits.pixels, "a picture is within its limits");
    require(image.pixels.size() == image.width * image.height * 3, "a picture has all of its pixels");
    const mllama::TileSet tiles = processor.tiles(image);
    for (const float level : tiles.pixels) require(level >= -2 && level <= 3, "a level is in its range");
  });
}

}  // namespace

std::vector<std::string> mllama_fuzz::seeds() {
  std::vector<std::string> files{"P5 2 3 255\nabcdef", "P6\n# a picture\n1 2\n255\nabcdef"};
  for (const char* const folder : {"/tests/golden/images", "/tests/golden/processor"}) {
    for (const auto& entry : std::filesystem::directory_iterator(std::string(MLLAMA_REPOSITORY) + folder)) {
      const std::string type = entry.path().extension();
      if ((type == ".png" || type == ".jpg") && entry.file_size() <= 4096) files.push_back(read_file(entry.path()));
    }
  }
  std::sort(files.begin(), files.end());  // folders have no order
  return files;
}

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view file = mllama_fuzz::text_of(data, size);
  decode(file);
  if (!file.starts_with(mllama::detail::png_signature)) return 0;
  const std::string repaired = with_checksums(std::string(file));
  if (repaired != file) decode(repaired);
  return 0;
}
