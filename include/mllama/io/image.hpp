// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <mllama/core/check.hpp>
#include <mllama/io/mapped_file.hpp>
#include <mllama/io/stb_image.hpp>
#include <mllama/vision/image.hpp>

/// Picture files: PNG and JPEG through stb_image, and binary PNM (PGM, PPM). What a file claims is checked here first, because
/// stb_image takes truncated files for pictures and trusts its tables; other formats are not read at all.

namespace mllama {

/// What a picture file may ask for at most.
struct ImageLimits {
  std::size_t pixels = std::size_t{64} << 20U;
  std::size_t bytes = std::size_t{256} << 20U;  ///< of the file
};

namespace detail {

/// Reads numbers from a picture file, and says what is wrong with it.
class ImageBytes {
 public:
  ImageBytes(std::span<const std::byte> bytes, std::string_view name, std::string_view kind)
      : bytes_(bytes), name_(name), kind_(kind) {}

  [[noreturn]] void fail(std::string_view note) const {
    throw format_error(Fault{.file = concat(name_), .field = concat(kind_), .note = concat(note)});
  }
  void need(bool holds, std::string_view note) const {
    if (!holds) fail(note);
  }

  [[nodiscard]] std::size_t position() const noexcept { return position_; }
  [[nodiscard]] std::size_t left() const noexcept { return bytes_.size() - position_; }
  [[nodiscard]] std::span<const std::byte> until_here() const noexcept { return bytes_.first(position_); }

  std::span<const std::byte> take(std::size_t count) {
    need(count <= left(), "the file is truncated");
    position_ += count;
    return bytes_.subspan(position_ - count, count);
  }
  std::uint8_t byte() { return std::to_integer<std::uint8_t>(take(1)[0]); }
  std::uint32_t big_endian(std::size_t bytes) {
    std::uint32_t number = 0;
    for (std::size_t i = 0; i < bytes; ++i) number = (number << 8U) | byte();
    return number;
  }
  /// A part of the file, with the same name in errors.
  ImageBytes part(std::size_t count) { return {take(count), name_, kind_}; }

  /// Errors:  format_error if a side is zero or there are too many pixels.
  void check_size(std::size_t width, std::size_t height, const ImageLimits& limits) const {
    if (width == 0 || height == 0 || width > Image::longest_side || height > Image::longest_side ||
        width > limits.pixels / height) {
      throw format_error(Fault{.file = concat(name_),
                               .field = concat(kind_),
                               .expected = concat("at most ", limits.pixels, " pixels, and one"),
                               .found = concat(width, " x ", height)});
    }
  }

 private:
  std::span<const std::byte> bytes_;
  std::string_view name_, kind_;
  std::size_t position_ = 0;
};

/// `level` over white by `alpha`, as Pillow's alpha_composite computes it: level * alpha + 255 * (255 - alpha), over 255, to
/// nearest.
constexpr std::uint8_t over_white(std::uint8_t level, std::uint8_t alpha) noexcept {
  if (alpha == 0) return 255;
  const std::uint32_t sum = level * (128U * alpha) + 255U * 128U * (255U - alpha) + 0x4000U;
  return static_cast<std::uint8_t>((((sum >> 8U) + sum) >> 8U) >> 7U);
}

/// An RGB picture from levels of `channels` per pixel: grey, grey and alpha, RGB, or RGB and alpha.
inline Image rgb_over_white(const std::uint8_t* levels, std::size_t width, std::size_t height, std::size_t channels,
                            bool use_alpha) {
  Image image(width, height);
  const std::size_t colours = channels >= 3 ? 3 : 1;
  const bool alpha = use_alpha && channels > colours;
  for (std::size_t at = 0; at < image.pixels.size(); levels += channels) {
    for (std::size_t channel = 0; channel < Image::channels; ++channel) {
      const std::uint8_t level = levels[colours == 3 ? channel : 0];
      image.pixels[at++] = alpha ? over_white(level, levels[colours]) : level;
    }
  }
  return image;
}

struct StbFree {
  void operator()(void* levels) const noexcept { stb::mllama_stbi_image_free(levels); }
};

/// Runs one of stb_image's decoders, which may allocate what a picture of this size reasonably takes.
/// Errors:  format_error with stb_image's words; input that makes it another size than its header said is refused too.
template <class Level, class Decoder>
std::unique_ptr<Level, StbFree> stb_decode(Decoder decoder, std::span<const std::byte> bytes, const ImageBytes& file,
                                           std::size_t width, std::size_t height, int& channels) {
  // JPEG pads to blocks of up to 32 x 32; PNG takes up to 8 bytes a pixel, in a buffer that doubles.
  const std::size_t padded = (width / 32 + 1) * (height / 32 + 1) * 1024;
  stb_largest_block = 16 * padded + 2 * bytes.size() + 65536;
  int found_width = 0, found_height = 0;
  std::unique_ptr<Level, StbFree> levels(decoder(reinterpret_cast<const stb::stbi_uc*>(bytes.data()),
                                                 static_cast<int>(bytes.size()), &found_width, &found_height, &channels, 0));
  if (levels == nullptr) {
    const char* const reason = stb::mllama_stbi_failure_reason();
    file.fail(concat("cannot be decoded: ", reason == nullptr ? std::string_view("unknown reason") : std::string_view(reason)));
  }
  file.need(std::cmp_equal(found_width, width) && std::cmp_equal(found_height, height),
            "the picture has another size than its header says");
  return levels;
}

/// CRC-32 of PNG, zip and zlib.
class Crc32 {
 public:
  void add(std::span<const std::byte> bytes) noexcept {
    for (const std::byte byte : bytes) state_ = table[(state_ ^ std::to_integer<std::uint32_t>(byte)) & 255U] ^ (state_ >> 8U);
  }
  [[nodiscard]] std::uint32_t value() const noexcept { return ~state_; }

 private:
  static constexpr std::array<std::uint32_t, 256> table = [] {
    std::array<std::uint32_t, 256> entries{};
    for (std::uint32_t i = 0; i < 256; ++i) {
      std::uint32_t entry = i;
      for (int bit = 0; bit < 8; ++bit) entry = (entry >> 1U) ^ ((entry & 1U) != 0 ? 0xedb88320U : 0U);
      entries[i] = entry;
    }
    return entries;
  }();

  std::uint32_t state_ = 0xffffffffU;
};

inline constexpr std::string_view png_signature = "\x89PNG\r\n\x1a\n";

/// Checks every chunk, and gives stb_image those that make the picture only. A palette is filled up with black: stb_image would
/// take the colours that it lacks from the stack.
inline Image decode_png(ImageBytes file, const ImageLimits& limits) {
  std::vector<std::byte> picture;
  const auto keep = [&picture](std::span<const std::byte> bytes) { picture.insert(picture.end(), bytes.begin(), bytes.end()); };
  keep(file.take(png_signature.size()));
  std::size_t width = 0, height = 0;
  std::uint8_t depth = 0, colour = 0;
  bool palette = false;
  for (std::string_view type; type != "IEND";) {
    const std::span<const std::byte> length = file.take(4);
    const std::span<const std::byte> name = file.take(4);
    type = {reinterpret_cast<const char*>(name.data()), name.size()};
    const std::size_t size = ImageBytes(length, "", "").big_endian(4);
    const std::span<const std::byte> data = file.take(size);
    Crc32 crc;
    crc.add(name);
    crc.add(data);
    const std::span<const std::byte> checksum = file.take(4);
    file.need(ImageBytes(checksum, "", "").big_endian(4) == crc.value(), "a checksum does not match: the file is damaged");
    file.need((width == 0) == (type == "IHDR"), "the header must come first, and once");
    if (type == "IHDR") {
      file.need(size == 13, "the header has a wrong length");
      ImageBytes header(data, "", "");
      width = header.big_endian(4);
      height = header.big_endian(4);
      depth = header.byte();
      colour = header.byte();
      file.check_size(width, height, limits);
    } else if (type == "PLTE" && size < std::size_t{3} * 256) {
      file.need(!std::exchange(palette, true), "it has two palettes");  // each becomes many bytes of few
      keep(std::array{std::byte{0}, std::byte{0}, std::byte{3}, std::byte{0}});
      keep(name);
      keep(data);
      picture.resize(picture.size() + std::size_t{3} * 256 - size + checksum.size());
      continue;
    } else if (type != "PLTE" && type != "tRNS" && type != "IDAT" && type != "IEND") {
      // A chunk whose name starts with a capital letter changes the meaning of the others.
      file.need((std::to_integer<unsigned>(name[0]) & 0x20U) != 0, "a chunk of unknown type is needed to decode it");
      continue;
    }
    keep(length);
    keep(name);
    keep(data);
    keep(checksum);
  }
  int channels = 0;
  if (colour == 0 && depth == 16) {
    // Pillow reads 16-bit grey as integers and clips them; all other 16-bit levels lose their low byte.
    const auto wide = stb_decode<stb::stbi_us>(stb::mllama_stbi_load_16_from_memory, picture, file, width, height, channels);
    std::vector<std::uint8_t> levels(width * height * static_cast<std::size_t>(channels));
    std::transform(wide.get(), wide.get() + levels.size(), levels.begin(),
                   [](unsigned level) { return static_cast<std::uint8_t>(std::min(level, 255U)); });
    return rgb_over_white(levels.data(), width, height, static_cast<std::size_t>(channels), true);
  }
  const auto levels = stb_decode<stb::stbi_uc>(stb::mllama_stbi_load_from_memory, picture, file, width, height, channels);
  // stb_image turns the transparent colour of an RGB file into alpha; Hugging Face's processor takes an RGB file as it is.
  return rgb_over_white(levels.get(), width, height, static_cast<std::size_t>(channels), colour != 2);
}

/// Scans of a component of a progressive JPEG; files have up to ten. Ten bytes make one, which passes over the whole picture.
inline constexpr int most_scans = 32;

/// Checks the segments up to the end marker: stb_image fills a truncated picture with grey, decodes as many scans as there are, and
/// writes beyond its arrays if a Huffman table has too many codes. Baseline and progressive, 8 bits, of 1, 3 or 4 components.
inline Image decode_jpeg(ImageBytes file, const ImageLimits& limits) {
  std::size_t width = 0, height = 0, components = 0;
  std::array<std::uint8_t, 4> names{}, quantizers{};
  unsigned quantizers_seen = 0, huffman_seen = 0;  // a bit per table, 4 per class of Huffman tables
  std::array<int, 4> scans{};                      // of each component
  bool progressive = false, adobe = false;
  file.take(2);
  for (;;) {
    std::uint8_t marker = file.byte();
    if (marker != 0xff) continue;  // padding, or entropy-coded data
    while (marker == 0xff) marker = file.byte();
    if (marker == 0xd9) break;
    if (marker == 0 || (marker >= 0xd0 && marker <= 0xd7)) continue;  // a byte of entropy-coded data, or a restart
    const std::size_t length = file.big_endian(2);
    file.need(length >= 2, "a segment has no length");
    ImageBytes segment = file.part(length - 2);
    if (marker == 0xdb) {
      while (segment.left() != 0) {
        const unsigned table = segment.byte();
        file.need((table & 15U) < 4 && table >> 4U <= 1, "a quantization table has a wrong number");
        segment.take(table >> 4U == 0 ? 64 : 128);
        quantizers_seen |= 1U << (table & 15U);
      }
    } else if (marker == 0xc4) {
      while (segment.left() != 0) {
        const unsigned table = segment.byte();
        file.need((table & 15U) < 4 && table >> 4U <= 1, "a Huffman table has a wrong number");
        std::size_t codes = 0;
        for (int bits = 1; bits <= 16; ++bits) codes += segment.byte();
        file.need(codes < 256, "a Huffman table has too many codes");
        segment.take(codes);
        huffman_seen |= 1U << ((table >> 4U) * 4 + (table & 15U));
      }
    } else if (marker >= 0xc0 && marker <= 0xc2) {
      file.need(components == 0, "it has two frames");
      progressive = marker == 0xc2;
      file.need(segment.byte() == 8, "only 8 bits per level are supported");
      height = segment.big_endian(2);
      width = segment.big_endian(2);
      file.check_size(width, height, limits);
      components = segment.byte();
      file.need(components == 1 || components == 3 || components == 4, "only 1, 3 or 4 components are supported");
      for (std::size_t i = 0; i < components; ++i) {
        names[i] = segment.byte();
        segment.byte();
        quantizers[i] = segment.byte();
      }
    } else if (marker >= 0xc3 && marker <= 0xcf) {
      file.fail("only baseline and progressive Huffman coding are supported");
    } else if (marker == 0xda) {
      file.need(components != 0, "a scan comes before the frame");
      std::vector<std::uint8_t> tables(segment.byte());
      for (std::uint8_t& pair : tables) {
        const auto found = std::find(names.begin(), names.end(), segment.byte());
        const auto component = static_cast<std::size_t>(found - names.begin());
        file.need(component < components, "a scan names no component");
        file.need(quantizers[component] < 4 && (quantizers_seen >> quantizers[component] & 1U) != 0,
                  "a quantization table is missing");
        file.need(++scans[component] <= (progressive ? most_scans : 1), "a component has too many scans");
        pair = segment.byte();
      }
      // A progressive scan uses DC tables if it begins with coefficient 0, else AC tables; a sequential one uses both.
      const bool dc = segment.byte() == 0, ac = !dc || !progressive;
      for (const std::uint8_t pair : tables) {
        file.need(!dc || (pair >> 4U < 4 && (huffman_seen >> (pair >> 4U) & 1U) != 0), "a Huffman table is missing");
        file.need(!ac || ((pair & 15U) < 4 && (huffman_seen >> (4 + (pair & 15U)) & 1U) != 0), "a Huffman table is missing");
      }
    } else if (marker == 0xee && length >= 14) {
      const std::span<const std::byte> tag = segment.take(12);
      adobe = std::string_view(reinterpret_cast<const char*>(tag.data()), 5) == "Adobe";
    }
  }
  std::size_t scanned = 0;
  while (scanned < components && scans[scanned] != 0) ++scanned;
  file.need(components != 0 && scanned == components, "the file ends before all of the picture is there");
  // Adobe's files hold inverted CMYK or YCCK, which stb_image undoes as Pillow does; it does not know what others hold.
  file.need(components != 4 || adobe, "four colours without Adobe's marker are not supported");
  int channels = 0;
  const auto levels = stb_decode<stb::stbi_uc>(stb::mllama_stbi_load_from_memory, file.until_here(), file, width, height, channels);
  return rgb_over_white(levels.get(), width, height, static_cast<std::size_t>(channels), false);
}

/// Binary grey (P5) or RGB (P6) with levels to 255.
inline Image decode_pnm(ImageBytes file, const ImageLimits& limits) {
  const bool grey = file.take(2)[1] == std::byte{'5'};
  std::uint8_t next = 0;
  const auto number = [&]() -> std::size_t {
    do {
      next = file.byte();
      while (next == '#') {
        while (next != '\n') next = file.byte();
      }
    } while (next == ' ' || (next >= '\t' && next <= '\r'));
    std::size_t value = 0;
    for (; next >= '0' && next <= '9' && value <= Image::longest_side; next = file.byte())
      value = value * 10 + (next - std::size_t{'0'});
    file.need(next == ' ' || (next >= '\t' && next <= '\r'), "the header is not one of three numbers");
    return value;
  };
  const std::size_t width = number(), height = number(), most = number();
  file.check_size(width, height, limits);
  file.need(most == 255, "only levels to 255 are supported");
  const std::size_t channels = grey ? 1 : 3;
  const std::span<const std::byte> levels = file.take(width * height * channels);
  return rgb_over_white(reinterpret_cast<const std::uint8_t*>(levels.data()), width, height, channels, false);
}

}  // namespace detail

/// A picture from the bytes of a file: PNG, JPEG, PGM or PPM; `name` is what errors call it. Transparent pixels are shown over
/// white, grey becomes RGB, and rotation flags are not applied, all as in transformers' MllamaImageProcessor with Pillow, bit for
/// bit except JPEG, where decoders differ by a few levels.
/// Errors:  format_error if the bytes are not such a file, are damaged or truncated, or exceed a limit. Damage inside the
///          entropy-coded data of a JPEG may go unnoticed: it has no checksum.
template <class = void>  // so that a program can have it compiled elsewhere
[[nodiscard]] Image decode_image(std::span<const std::byte> bytes, std::string_view name, const ImageLimits& limits = {}) {
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  const auto fail = [&](std::string_view expected, std::string found) {
    throw format_error(Fault{.file = concat(name), .field = "image", .expected = concat(expected), .found = std::move(found)});
  };
  const std::size_t most_bytes = std::min<std::size_t>(limits.bytes, std::numeric_limits<std::int32_t>::max() / 2);
  if (bytes.size() > most_bytes) fail(concat("at most ", most_bytes, " bytes"), concat(bytes.size()));
  if (text.starts_with(detail::png_signature)) return detail::decode_png({bytes, name, "PNG"}, limits);
  if (text.starts_with("\xff\xd8\xff")) return detail::decode_jpeg({bytes, name, "JPEG"}, limits);
  if (text.starts_with("P5") || text.starts_with("P6")) return detail::decode_pnm({bytes, name, "PNM"}, limits);
  std::string_view found = "something else";
  if (text.empty()) found = "an empty file";
  if (text.starts_with("GIF8")) found = "GIF";
  if (text.starts_with("BM")) found = "BMP";
  if (text.starts_with("RIFF") && text.substr(0, 12).ends_with("WEBP")) found = "WebP";
  if (text.starts_with("II*") || text.starts_with(std::string_view("MM\0*", 4))) found = "TIFF";
  fail("a PNG, JPEG, PGM or PPM picture", concat(found));
  return {};
}
#if defined(MLLAMA_ELSEWHERE)
extern template Image decode_image<>(std::span<const std::byte>, std::string_view, const ImageLimits&);
#endif

/// A picture from a file. Errors:  file_error if it cannot be read, and those of decode_image.
[[nodiscard]] inline Image read_image(const std::string& path, const ImageLimits& limits = {}) {
  const MappedFile file(path);
  return decode_image(file.bytes(), path, limits);
}

}  // namespace mllama
