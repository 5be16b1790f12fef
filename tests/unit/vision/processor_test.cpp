// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <fstream>
#include <string>

#include <mllama/core/json.hpp>
#include <mllama/io/image.hpp>
#include <mllama/vision/processor.hpp>

using mllama::Image;
using mllama::ImageProcessor;
using mllama::ImageRange;
using mllama::JsonField;
using mllama::PassOrder;
using mllama::ProcessorConfig;
using mllama::TileSet;

namespace {

const std::string golden = MLLAMA_TEST_DATA "/golden/processor/";

/// All numbers of nested arrays, one after the other.
template <class T>
std::vector<T> numbers(const JsonField& field) {
  if (!field.is_array()) return {field.as<T>()};
  std::vector<T> all;
  for (const JsonField& element : field.elements()) {
    for (const T number : numbers<T>(element)) all.push_back(number);
  }
  return all;
}
template <class T>
std::vector<std::vector<T>> lists(const JsonField& field) {
  std::vector<std::vector<T>> all;
  for (const JsonField& element : field.elements()) all.push_back(numbers<T>(element));
  return all;
}

static_assert(std::endian::native == std::endian::little, "the checksums are of little-endian floats");

template <class T>
std::string crc(const std::vector<T>& values) {
  mllama::detail::Crc32 sum;
  sum.add(std::as_bytes(std::span(values)));
  std::string text;
  for (int shift = 28; shift >= 0; shift -= 4) text += "0123456789abcdef"[(sum.value() >> shift) & 15U];
  return text;
}

/// A picture file, or pixel (x, y) = (ax + by, cx + dy + e, xy / f + g), each mod 256, of coefficients "a,b,c,d,e,f,g".
Image picture(const std::string& source, std::size_t width, std::size_t height) {
  if (source.ends_with(".png")) return mllama::read_image(golden + source);
  std::array<std::size_t, 7> k{};
  const char* at = source.c_str();
  for (std::size_t& value : k) value = std::strtoul(at, const_cast<char**>(&at), 10), ++at;
  Image image(width, height);
  for (std::size_t y = 0; y < height; ++y) {
    for (std::size_t x = 0; x < width; ++x) {
      const std::array values{k[0] * x + k[1] * y, k[2] * x + k[3] * y + k[4], x * y / k[5] + k[6]};
      std::ranges::transform(values, image.row(y).begin() + static_cast<std::ptrdiff_t>(3 * x),
                             [](std::size_t v) { return static_cast<std::uint8_t>(v); });
    }
  }
  return image;
}

/// The resized picture on black: what the tiles are cut from.
Image padded(const Image& image, mllama::Canvas canvas, std::size_t tile) {
  Image out(canvas.columns * tile, canvas.rows * tile);
  for (std::size_t y = 0; y < image.height; ++y) std::ranges::copy(image.row(y), out.row(y).begin());
  return out;
}

ProcessorConfig config(std::size_t tile, std::size_t max_tiles, PassOrder passes = PassOrder::horizontal_first) {
  ProcessorConfig result;
  result.tile = tile;
  result.max_tiles = max_tiles;
  result.passes = passes;
  return result;
}

}  // namespace

TEST_CASE("pictures become Hugging Face's tiles, bit for bit") {
  std::ifstream table(golden + "images.tsv");
  std::string header, source;
  REQUIRE(std::getline(table, header));
  std::size_t width = 0, height = 0, tile = 0, max_tiles = 0, id = 0, count = 0;
  mllama::Fit expected;
  std::array<std::string, 8> sums;
  while (table >> source >> width >> height >> tile >> max_tiles >> expected.canvas.rows >> expected.canvas.columns >> id >>
         expected.height >> expected.width >> sums[0] >> sums[1] >> sums[2] >> sums[3] >> sums[4] >> sums[5] >> sums[6] >>
         sums[7]) {
    ++count;
    CAPTURE(source);
    CAPTURE(width);
    CAPTURE(height);
    CAPTURE(tile);
    CAPTURE(max_tiles);
    const Image image = picture(source, width, height);
    REQUIRE(image.width == width);
    REQUIRE(image.height == height);
    const mllama::Fit fit = mllama::fit_to_tiles(height, width, tile, max_tiles);
    REQUIRE(fit == expected);
    CHECK(crc(image.pixels) == sums[0]);
    for (const PassOrder passes : {PassOrder::horizontal_first, PassOrder::pillow_13_0}) {
      // A picture that later releases read in another way is not comparable behind that.
      if (passes == PassOrder::pillow_13_0 && sums[4] != "-") continue;
      const auto sum = [&](std::size_t i) {
        return passes == PassOrder::pillow_13_0 && sums[4 + i] != "-" ? sums[4 + i] : sums[i];
      };
      const Image resized = mllama::resize_bilinear(image, fit.height, fit.width, passes);
      CHECK(crc(resized.pixels) == sum(1));
      CHECK(crc(padded(resized, fit.canvas, tile).pixels) == sum(2));
      const TileSet set = ImageProcessor(config(tile, max_tiles, passes)).tiles(image);
      CHECK(crc(set.pixels) == sum(3));
      CHECK(set.aspect_ratio_id == id);
      CHECK(set.canvas == fit.canvas);
    }
  }
  CHECK(count >= 60);
}

TEST_CASE("black is normalised like the rest") {
  const TileSet set = ImageProcessor(config(8, 4)).tiles(Image(8, 16));
  CHECK(set.pixels[0] == doctest::Approx(-1.7922626F).epsilon(1e-7));
  CHECK(set.pixels[64] == doctest::Approx(-1.7520971F).epsilon(1e-7));
  CHECK(set.pixels[128] == doctest::Approx(-1.4802198F).epsilon(1e-7));
}

TEST_CASE("rescaling and normalising can be left out") {
  Image image(1, 1);
  image.pixels = {0, 51, 255};
  ProcessorConfig plain = config(1, 1);
  plain.normalize = false;
  CHECK(ImageProcessor(plain).tiles(image).pixels == std::vector<float>{0, 51.0F / 255.0F, 1});
  plain.rescale = false;
  CHECK(ImageProcessor(plain).tiles(image).pixels == std::vector<float>{0, 51, 255});
}

TEST_CASE("a processor refuses settings out of range") {
  const auto refused = [](auto change) {
    ProcessorConfig wrong;
    change(wrong);
    CHECK_THROWS_AS(ImageProcessor{wrong}, mllama::config_error);
  };
  refused([](ProcessorConfig& c) { c.tile = 0; });
  refused([](ProcessorConfig& c) { c.tile = std::size_t{1} << 40U; });
  refused([](ProcessorConfig& c) { c.tile = 1U << 14U; });
  refused([](ProcessorConfig& c) { c.max_tiles = 0; });
  refused([](ProcessorConfig& c) { c.max_tiles = ~std::size_t{0}; });
  refused([](ProcessorConfig& c) {  // few pixels, but 600 million canvases
    c.tile = 1;
    c.max_tiles = ProcessorConfig::most_pixels;
  });
  refused([](ProcessorConfig& c) { c.standard_deviation[1] = 0; });
  refused([](ProcessorConfig& c) { c.standard_deviation[1] = 1e-60; });
  refused([](ProcessorConfig& c) { c.mean[2] = 1e300; });
}

TEST_CASE("batches are packed like Hugging Face's") {
  std::ifstream file(golden + "packings.jsonl");
  std::size_t count = 0;
  for (std::string line; std::getline(file, line); ++count) {
    const JsonField row = mllama::parse_json(line, "packings.jsonl");
    CAPTURE(line);
    for (const bool newer : {false, true}) {
      const ImageProcessor processor(config(row["tile"].as<std::size_t>(), row["max_tiles"].as<std::size_t>(),
                                            newer ? PassOrder::pillow_13_0 : PassOrder::horizontal_first));
      std::vector<std::vector<TileSet>> samples;
      for (const JsonField& names : row["images"].elements()) {
        samples.emplace_back();
        for (const JsonField& name : names.elements()) {
          samples.back().push_back(processor.tiles(picture(name.as<std::string>(), 0, 0)));
        }
      }
      const mllama::ImageBatch batch = processor.pack(samples);
      CHECK(std::vector{batch.samples, batch.images, batch.tiles, std::size_t{3}, batch.tile, batch.tile} ==
            numbers<std::size_t>(row["pixel_values_shape"]));
      CHECK(crc(batch.pixel_values) == row[newer ? "pixel_values_crc_13" : "pixel_values_crc"].as<std::string>());
      CHECK(batch.num_tiles == lists<std::size_t>(row["num_tiles"]));
      CHECK(batch.aspect_ratio_ids == numbers<std::int64_t>(row["aspect_ratio_ids"]));
      CHECK(batch.aspect_ratio_mask == numbers<std::int64_t>(row["aspect_ratio_mask"]));
    }
  }
  CHECK(count >= 10);
}

TEST_CASE("a batch without pictures is empty, and tiles of another processor are refused") {
  const ImageProcessor processor(config(4, 2));
  const std::vector<std::vector<TileSet>> none(3), foreign{{ImageProcessor(config(5, 2)).tiles(Image(5, 5))}};
  const mllama::ImageBatch batch = processor.pack(none);
  CHECK(batch.samples == 3);
  CHECK(batch.images == 0);
  CHECK(batch.pixel_values.empty());
  CHECK_THROWS_AS((void)processor.pack(foreign), mllama::input_error);
}

TEST_CASE("text sees the pictures before it, as in Hugging Face's masks") {
  std::ifstream file(golden + "cross_masks.jsonl");
  std::size_t count = 0;
  for (std::string line; std::getline(file, line); ++count) {
    const JsonField row = mllama::parse_json(line, "cross_masks.jsonl");
    CAPTURE(line);
    std::vector<std::vector<ImageRange>> ranges;
    std::size_t length = 0;
    const auto samples = lists<int>(row["input_ids"]);
    const auto ends = row["ranges"].elements();
    for (std::size_t sample = 0; sample < samples.size(); ++sample) {
      const std::vector<int>& ids = samples[sample];
      length = std::max(length, ids.size());
      ranges.push_back(mllama::image_ranges(std::span<const int>(ids), row["image_token"].as<int>()));
      std::vector<ImageRange> expected;
      for (const auto& range : lists<int>(ends[sample])) {
        expected.push_back({static_cast<std::size_t>(range[0]), range[1] == -1 ? ids.size() : static_cast<std::size_t>(range[1])});
      }  // -1: to the end
      CHECK(ranges.back() == expected);
    }
    const auto num_tiles = lists<std::size_t>(row["num_tiles"]);
    std::string mask;
    for (const std::int64_t value :
         mllama::dense_cross_attention_mask(ranges, num_tiles, length, row["max_tiles"].as<std::size_t>()))
      mask += value == 1 ? '1' : '0';
    CHECK(mask == row["mask"].as<std::string>());
  }
  CHECK(count >= 40);
}

TEST_CASE("neighbouring pictures share what follows them") {
  const std::vector<int> ids{9, 9, 1, 1, 9, 1};
  CHECK(mllama::image_ranges(std::span<const int>(ids), 9) == std::vector<ImageRange>{{0, 4}, {1, 4}, {4, 6}});
  CHECK(mllama::image_ranges(std::span<const int>{}, 9).empty());
}

TEST_CASE("masks need as many image tokens as pictures") {
  const std::vector<std::vector<ImageRange>> ranges{{{0, 4}}};
  const std::vector<std::vector<std::size_t>> two{{1, 1}}, five{{5}}, samples{{1}, {1}};
  CHECK_THROWS_WITH_AS((void)mllama::dense_cross_attention_mask(ranges, two, 4, 4),
                       "input_ids: expected 2 image tokens in sample 0, found 1: were some cut off by truncation?",
                       mllama::input_error);
  CHECK_THROWS_AS((void)mllama::dense_cross_attention_mask(ranges, five, 4, 4), mllama::input_error);
  CHECK_THROWS_AS((void)mllama::dense_cross_attention_mask(ranges, samples, 4, 4), mllama::input_error);
}

TEST_CASE("image tokens and pictures must match, sample by sample") {
  using Counts = std::vector<std::size_t>;
  const auto check = [](const Counts& tokens, const Counts& images) { mllama::check_image_counts(tokens, images); };
  CHECK_NOTHROW(check({1, 2}, {1, 2}));
  CHECK_NOTHROW(check({0, 0}, {}));
  CHECK_NOTHROW(check({0, 0}, {0, 0}));
  CHECK_THROWS_WITH_AS(check({}, {}), "images: there is neither a text nor a picture", mllama::input_error);
  CHECK_THROWS_WITH_AS(check({}, {1}), "images: expected a text for each sample, found pictures only", mllama::input_error);
  CHECK_THROWS_WITH_AS(check({1, 0}, {1, 0}),
                       "images: expected image tokens in all texts of a batch, or in none, found 1 0 per text",
                       mllama::input_error);
  CHECK_THROWS_WITH_AS(check({1, 2}, {}), "images: expected 3 for the image tokens of the text, found none", mllama::input_error);
  CHECK_THROWS_WITH_AS(check({0}, {1}), "images: expected an image token in the text for each picture, found none",
                       mllama::input_error);
  CHECK_THROWS_WITH_AS(check({1, 2}, {2, 2}), "images: expected 1 2 per text, by its image tokens, found 2 2", mllama::input_error);
  CHECK_THROWS_WITH_AS(
      check({1, 2}, {3}),
      "images: expected 1 2 per text, by its image tokens, found 3: the total is right: give one list of pictures per text",
      mllama::input_error);
}
