// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <mllama/io/image.hpp>
#include <random>
#include <string>

using mllama::Image;

namespace {

const std::string data = MLLAMA_TEST_DATA "/golden/";

std::string file_bytes(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

Image decode(const std::string& bytes, const mllama::ImageLimits& limits = {}) {
  return mllama::decode_image(std::as_bytes(std::span(bytes)), "picture", limits);
}

std::string big_endian(std::size_t value, int bytes = 4) {
  std::string text;
  while (bytes-- != 0) text += static_cast<char>(value >> (8 * bytes));
  return text;
}

std::string chunk(const std::string& type, const std::string& content) {
  mllama::detail::Crc32 crc;
  crc.add(std::as_bytes(std::span(type)));
  crc.add(std::as_bytes(std::span(content)));
  return big_endian(content.size()) + type + content + big_endian(crc.value());
}

/// zlib's format without compression. Readers here do not look at its checksum.
std::string stored(const std::string& raw) {
  std::string out = "\x78\x01";
  for (std::size_t at = 0; at == 0 || at < raw.size(); at += 65535) {
    const std::string block = raw.substr(at, 65535);
    out += static_cast<char>(at + 65535 >= raw.size());
    for (const std::size_t length : {block.size(), 65535 - block.size()})
      out += {static_cast<char>(length), static_cast<char>(length >> 8U)};
    out += block;
  }
  return out + "\0\0\0\0";
}

std::string header(std::size_t width, std::size_t height, int depth, int colour) {
  return chunk(
      "IHDR", big_endian(width) + big_endian(height) + static_cast<char>(depth) + static_cast<char>(colour) + std::string(3, '\0'));
}

/// A file whose scan lines are `raw`, filter bytes included.
std::string png(std::size_t width, std::size_t height, int depth, int colour, const std::string& raw,
                const std::string& before = {}) {
  return std::string(mllama::detail::png_signature) + header(width, height, depth, colour) + before + chunk("IDAT", stored(raw)) +
         chunk("IEND", "");
}

using Pixels = std::vector<std::uint8_t>;

std::string message(const std::string& bytes, const mllama::ImageLimits& limits = {}) {
  try {
    (void)decode(bytes, limits);
  } catch (const mllama::format_error& refused) {
    return refused.what();
  }
  return "no error";
}

/// zlib's format: zeros, 258 more of them for every 13 bits.
std::string inflating(int repeats) {
  std::string out = "\x78\x01", bits =
                                    "110"
                                    "00110000";
  for (int i = 0; i < repeats; ++i) bits += "1100010100000";
  bits += "0000000";
  for (std::size_t at = 0; at < bits.size(); at += 8) {
    unsigned byte = 0;
    for (std::size_t bit = 0; bit < 8 && at + bit < bits.size(); ++bit) byte |= (bits[at + bit] == '1' ? 1U : 0U) << bit;
    out += static_cast<char>(byte);
  }
  return out;
}

/// A grey JPEG all of whose DC differences are 32767, times a factor of 65535, with so many bits of data.
std::string overflowing_jpeg(int size) {
  std::string bytes = "\xff\xd8\xff\xdb" + big_endian(2 + 129, 2) + '\x10' + std::string(128, '\xff');
  bytes += "\xff\xc0" + big_endian(11, 2) + '\x08' + big_endian(1024, 2) + big_endian(512, 2) + std::string("\x01\x01\x11\x00", 4);
  for (const char symbol : {'\x0f', '\x00'}) {  // one code, a zero: for a difference of 15 bits, and for the end of the block
    bytes += "\xff\xc4" + big_endian(2 + 18, 2) + (symbol == '\x0f' ? '\x00' : '\x10') + '\x01' + std::string(15, '\0') + symbol;
  }
  bytes += "\xff\xda" + big_endian(8, 2) + std::string("\x01\x01\x00\x00\x3f\x00", 6);
  unsigned held = 0;
  int bits = 0;
  for (int bit = 0; bit < size; ++bit) {
    held = held << 1U | (bit % 17 != 0 && bit % 17 != 16 ? 1U : 0U);
    if (++bits == 8) {
      bytes += static_cast<char>(held);
      if ((held & 255U) == 255) bytes += '\0';
      bits = 0;
    }
  }
  return bytes + "\xff\xd9";
}

}  // namespace

TEST_CASE("transparency over white is rounded to nearest") {
  for (unsigned level = 0; level < 256; ++level) {
    for (unsigned alpha = 0; alpha < 256; ++alpha) {
      const unsigned exact = (2 * (level * alpha + 255 * (255 - alpha)) + 255) / 510;
      REQUIRE(mllama::detail::over_white(static_cast<std::uint8_t>(level), static_cast<std::uint8_t>(alpha)) == exact);
    }
  }
}

TEST_CASE("PNG levels become RGB over white as Pillow makes them") {
  using namespace std::string_literals;
  CHECK(decode(png(2, 1, 8, 0, "\0\x10\xfe"s)).pixels == Pixels{16, 16, 16, 254, 254, 254});
  CHECK(decode(png(3, 1, 16, 0, "\0\0\x0a\1\x2c\0\5"s)).pixels == Pixels{10, 10, 10, 255, 255, 255, 5, 5, 5});
  CHECK(decode(png(3, 1, 16, 0, "\0\0\x0a\1\x2c\0\5"s, chunk("tRNS", "\0\5"s))).pixels ==
        Pixels{10, 10, 10, 255, 255, 255, 255, 255, 255});
  CHECK(decode(png(1, 1, 16, 2, "\0\x12\x34\x80\xff\1\x2c"s)).pixels == Pixels{0x12, 0x80, 1});
  CHECK(decode(png(1, 1, 16, 6, "\0\x12\x34\x80\xff\1\x2c\x80\xff"s)).pixels == Pixels{136, 191, 128});
  CHECK(decode(png(1, 1, 16, 4, "\0\x12\x34\x80\xff"s)).pixels == Pixels{136, 136, 136});
  CHECK(decode(png(2, 1, 8, 0, "\0\x11\x10"s, chunk("tRNS", "\0\x11"s))).pixels == Pixels{255, 255, 255, 16, 16, 16});
  CHECK(decode(png(2, 1, 8, 2, "\0\1\2\3\4\5\6"s, chunk("tRNS", "\0\1\0\2\0\3"s))).pixels == Pixels{1, 2, 3, 4, 5, 6});
  CHECK(decode(png(2, 1, 8, 3, "\0\0\1"s, chunk("PLTE", "\1\2\3\4\5\6"s) + chunk("tRNS", "\x64"s))).pixels ==
        Pixels{155, 156, 156, 4, 5, 6});
  CHECK(decode(png(2, 1, 8, 3, "\0\0\5"s, chunk("PLTE", "\1\2\3"s))).pixels == Pixels{1, 2, 3, 0, 0, 0});
}

TEST_CASE("PNM is read") {
  using namespace std::string_literals;
  CHECK(decode("P5\n# a comment\n2 1\n255\n\x07\x80"s).pixels == Pixels{7, 7, 7, 128, 128, 128});
  CHECK(decode("P6 1 1 255 abc"s).pixels == Pixels{'a', 'b', 'c'});
  CHECK(message("P6 1 1 255 ab") == "picture: PNM: the file is truncated");
  CHECK(message("P6 1 1 65535 abcdef") == "picture: PNM: only levels to 255 are supported");
  CHECK(message("P6 1 x 255 abcdef") == "picture: PNM: the header is not one of three numbers");
  CHECK(message("P6 0 1 255 abc").starts_with("picture: PNM: expected at most"));
  CHECK(message("P5 99999999999999999999999 1 255 abc") != "no error");
  CHECK(message("P5 # no end") == "picture: PNM: the file is truncated");
}

TEST_CASE("JPEG is decoded as libjpeg does, within what decoders may differ") {
  // Both use integer transforms whose last bits the standard leaves open, and subsampled colours are spread with other rounding.
  constexpr int tolerance = 4;
  for (const std::string name : {"baseline", "subsampled", "half", "progressive", "restarts", "grey", "cmyk"}) {
    CAPTURE(name);
    const Image found = mllama::read_image(data + "images/" + name + ".jpg"),
                expected = mllama::read_image(data + "images/" + name + ".ppm");
    REQUIRE(found.width == expected.width);
    REQUIRE(found.height == expected.height);
    int difference = 0;
    for (std::size_t i = 0; i < found.pixels.size(); ++i)
      difference = std::max(difference, std::abs(found.pixels[i] - expected.pixels[i]));
    CHECK(difference <= tolerance);
  }
}

TEST_CASE("other files are refused by name") {
  using namespace std::string_literals;
  CHECK(message("") == "picture: image: expected a PNG, JPEG, PGM or PPM picture, found an empty file");
  CHECK(message("GIF89a") == "picture: image: expected a PNG, JPEG, PGM or PPM picture, found GIF");
  CHECK(message("RIFF\0\0\0\0WEBP"s).ends_with("found WebP"));
  CHECK(message("BM").ends_with("found BMP"));
  CHECK(message("MM\0*"s).ends_with("found TIFF"));
  CHECK(message("hello").ends_with("found something else"));
  CHECK_THROWS_AS((void)mllama::read_image(data + "no such file.png"), mllama::file_error);
  CHECK_THROWS_AS((void)mllama::read_image(data), mllama::file_error);
  try {
    (void)mllama::read_image(data + "no such file.png");
  } catch (const mllama::file_error& missing) {
    CHECK(std::string(missing.what()).starts_with(data + "no such file.png: "));
  }
}

TEST_CASE("a file that is cut anywhere is refused") {
  for (const std::string name : {"images/baseline.jpg", "images/progressive.jpg", "images/cmyk.jpg", "processor/rgb_3x3.png",
                                 "processor/palette2.png", "images/grey.ppm"}) {
    const std::string bytes = file_bytes(data + name);
    CAPTURE(name);
    REQUIRE(message(bytes) == "no error");
    std::size_t refused = 0;
    for (std::size_t length = 0; length < bytes.size(); ++length) refused += message(bytes.substr(0, length)) != "no error";
    CHECK(refused == bytes.size());
  }
}

TEST_CASE("a picture may not be larger than the limit, and its file not either") {
  using namespace std::string_literals;
  const std::string huge = png(1U << 30U, 1U << 30U, 8, 2, "");
  CHECK(message(huge) == "picture: PNG: expected at most 67108864 pixels, and one, found 1073741824 x 1073741824");
  CHECK(message(png(5, 5, 8, 0, std::string(30, '\0')), {.pixels = 24}).find("found 5 x 5") != std::string::npos);
  CHECK(message(png(5, 5, 8, 0, std::string(30, '\0')), {.pixels = 25}) == "no error");
  CHECK(message(png(5, 5, 8, 0, std::string(30, '\0')), {.bytes = 40}).find("expected at most 40 bytes") != std::string::npos);
  CHECK(message(png(0, 5, 8, 0, "")) != "no error");
}

TEST_CASE("PNG rules that protect the decoder") {
  using namespace std::string_literals;
  const std::string good = png(1, 1, 8, 0, "\0\x07"s);
  std::string flipped = good;
  flipped[flipped.size() - 20] ^= 1;
  CHECK(message(flipped) == "picture: PNG: a checksum does not match: the file is damaged");
  const std::string signature(mllama::detail::png_signature);
  CHECK(message(signature + chunk("IEND", "")) == "picture: PNG: the header must come first, and once");
  CHECK(message(signature + header(1, 1, 8, 0) + header(1, 1, 8, 0)) == "picture: PNG: the header must come first, and once");
  CHECK(message(png(1, 1, 8, 0, "\0\x07"s, chunk("CgBI", "abcd"))) ==
        "picture: PNG: a chunk of unknown type is needed to decode it");
  CHECK(message(png(1, 1, 8, 0, "\0\x07"s, chunk("teXt", "abcd"))) == "no error");
  CHECK(message(png(1, 1, 8, 3, "\0\0"s, chunk("PLTE", "abc") + chunk("PLTE", ""))) == "picture: PNG: it has two palettes");
  CHECK(message(png(2, 2, 8, 0, "\0\x07"s)).starts_with("picture: PNG: cannot be decoded: "));
  CHECK(message(png(2, 2, 7, 0, "\0\x07"s)).starts_with("picture: PNG: cannot be decoded: "));
  CHECK(message(png(2, 2, 8, 3, "\0\x07"s)).starts_with("picture: PNG: cannot be decoded: "));
  const auto inflated = [&](int repeats) {
    return message(signature + header(1, 1, 8, 0) + chunk("IDAT", inflating(repeats)) + chunk("IEND", ""));
  };
  CHECK(inflated(10) == "no error");
  CHECK(inflated(100'000) == "picture: PNG: cannot be decoded: outofmem");  // 162 KB that would become 26 MB
}

TEST_CASE("JPEG rules that protect the decoder") {
  using namespace std::string_literals;
  const std::string good = file_bytes(data + "images/baseline.jpg");
  const auto changed = [&](const std::string& marker, std::size_t at, const std::string& bytes) {
    std::string copy = good;
    return message(copy.replace(copy.find(marker) + at, bytes.size(), bytes));
  };
  CHECK(changed("\xff\xdb", 1, "\xfe") == "picture: JPEG: a quantization table is missing");  // now a comment
  CHECK(changed("\xff\xc4", 1, "\xfe") == "picture: JPEG: a Huffman table is missing");
  CHECK(changed("\xff\xc4", 5, std::string(16, '\xff')) == "picture: JPEG: a Huffman table has too many codes");
  CHECK(changed("\xff\xc4", 4, "\x44") == "picture: JPEG: a Huffman table has a wrong number");
  CHECK(changed("\xff\xc0", 1, "\xc9") == "picture: JPEG: only baseline and progressive Huffman coding are supported");
  CHECK(changed("\xff\xc0", 4, "\x0c") == "picture: JPEG: only 8 bits per level are supported");
  CHECK(changed("\xff\xc0", 5, "\xff\xff\xff\xff").find("found 65535 x 65535") != std::string::npos);
  CHECK(changed("\xff\xc0", 9, "\x02") == "picture: JPEG: only 1, 3 or 4 components are supported");
  CHECK(changed("\xff\xda", 5, "\x77") == "picture: JPEG: a scan names no component");
  CHECK(message("\xff\xd8\xff\xd9") == "picture: JPEG: the file ends before all of the picture is there");
  const auto repeated = [&](const std::string& name, std::size_t times) {
    std::string bytes = file_bytes(data + "images/" + name);
    const std::size_t scan = bytes.find("\xff\xda"), next = bytes.find("\xff\xda", scan + 1);
    const std::size_t end = next == std::string::npos ? bytes.size() - 2 : next;
    const std::string again = bytes.substr(scan, end - scan);
    for (std::size_t i = 0; i < times; ++i) bytes.insert(end, again);
    return message(bytes);
  };
  CHECK(repeated("baseline.jpg", 1) == "picture: JPEG: a component has too many scans");
  CHECK(repeated("progressive.jpg", 1) == "no error");
  CHECK(repeated("progressive.jpg", 32) == "picture: JPEG: a component has too many scans");
  std::string cmyk = file_bytes(data + "images/cmyk.jpg");
  cmyk[cmyk.find("Adobe")] = 'a';
  CHECK(message(cmyk) == "picture: JPEG: four colours without Adobe's marker are not supported");
  CHECK(message(overflowing_jpeg(17 * 128 * 64)) == "no error");
  for (int bits = 0; bits < 80; bits += 8) (void)message(overflowing_jpeg(bits));  // runs out inside a code
}

TEST_CASE("damaged pictures are decoded or refused, and nothing else happens") {
  const std::uint32_t seed =
      std::getenv("MLLAMA_TEST_SEED") == nullptr ? 1 : static_cast<std::uint32_t>(std::atoi(std::getenv("MLLAMA_TEST_SEED")));
  const int rounds = std::getenv("MLLAMA_TEST_ROUNDS") == nullptr ? 40 : std::atoi(std::getenv("MLLAMA_TEST_ROUNDS"));
  CAPTURE(seed);
  MESSAGE("seed ", seed);
  std::mt19937 random(seed);
  const mllama::ImageLimits limits{.pixels = 1U << 20U};
  std::size_t decoded = 0;
  for (const std::string name :
       {"images/baseline.jpg", "images/subsampled.jpg", "images/progressive.jpg", "images/restarts.jpg", "images/cmyk.jpg",
        "images/grey.jpg", "processor/rgb_interlaced.png", "processor/palette_trns.png", "processor/palette4.png",
        "processor/rgba16.png", "processor/grey16.png", "processor/grey2.png", "images/grey.ppm"}) {
    const std::string good = file_bytes(data + name);
    REQUIRE_FALSE(good.empty());
    for (int round = 0; round < rounds; ++round) {
      std::string bytes = good;
      for (std::size_t count = 1 + random() % 4; count != 0; --count) {
        // Half of the changes go where sizes and tables are.
        const std::size_t at = random() % (random() % 2 == 0 ? bytes.size() : std::min<std::size_t>(bytes.size(), 700));
        switch (random() % 5) {
          case 0:
            bytes[at] = static_cast<char>(random());
            break;
          case 1:
            bytes[at] ^= static_cast<char>(1U << random() % 8);
            break;
          case 2:
            bytes.erase(at, 1 + random() % 8);
            break;
          case 3:
            bytes.insert(at, 1 + random() % 8, static_cast<char>(random() % 2 == 0 ? 0xff : random()));
            break;
          default:
            bytes[at] = static_cast<char>(random() % 2 == 0 ? 0xff : 0);
            break;
        }
        if (bytes.empty()) bytes = good;
      }
      if (bytes.starts_with(mllama::detail::png_signature)) {  // a hostile file has the right checksums
        for (std::size_t at = 8; at + 12 <= bytes.size();) {
          const auto byte = [&](std::size_t i) { return std::size_t{static_cast<unsigned char>(bytes[i])}; };
          const std::size_t length = byte(at) << 24U | byte(at + 1) << 16U | byte(at + 2) << 8U | byte(at + 3);
          if (length > bytes.size() - at - 12) break;
          bytes.replace(at, length + 12, chunk(bytes.substr(at + 4, 4), bytes.substr(at + 8, length)));
          at += length + 12;
        }
      }
      const std::string result = message(bytes, limits);
      decoded += result == "no error";
      REQUIRE(result.find('\n') == std::string::npos);
    }
  }
  CHECK(decoded > 0);
}
