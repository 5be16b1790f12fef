// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <mllama/core/check.hpp>
#include <mllama/vision/image.hpp>
#include <mllama/vision/resize.hpp>
#include <mllama/vision/tiles.hpp>

/// From pictures to what the vision model takes, and from prompts to which text rows see which tiles.
/// Source:  transformers' MllamaImageProcessor and MllamaProcessor; the same numbers, bit for bit.

namespace mllama {

/// The values of preprocessor_config.json, as Llama 3.2 Vision Instruct has them.
struct ProcessorConfig {
  std::size_t tile = 560;     ///< `size`: side of a tile in pixels
  std::size_t max_tiles = 4;  ///< `max_image_tiles`, per picture
  bool rescale = true;
  double rescale_factor = 1.0 / 255.0;
  bool normalize = true;
  std::array<double, 3> mean{0.48145466, 0.4578275, 0.40821073};                 ///< per channel, after rescaling
  std::array<double, 3> standard_deviation{0.26862954, 0.26130258, 0.27577711};  ///< per channel
  PassOrder passes = PassOrder::horizontal_first;                                ///< of the resize; in no file

  /// Most pixels of a canvas: the model's own 1.3 million, with room.
  static constexpr std::size_t most_pixels = std::size_t{1} << 25U;
  /// Most tiles of a canvas. To choose one, all are looked at.
  static constexpr std::size_t most_tiles = 1024;
};

/// One picture as the vision model takes it: a canvas of square tiles.
struct TileSet {
  std::vector<float> pixels;  ///< (rows x columns, 3, tile, tile), tiles in row-major order
  Canvas canvas;
  std::size_t tile = 0;             ///< side in pixels
  std::size_t aspect_ratio_id = 0;  ///< of the canvas, from 1

  [[nodiscard]] std::size_t num_tiles() const noexcept { return canvas.tiles(); }
};

/// Pictures of several samples, padded to the same number of pictures and of tiles each: the tensors of Hugging Face's processor.
struct ImageBatch {
  std::size_t samples = 0;
  std::size_t images = 0;                           ///< most pictures of a sample
  std::size_t tiles = 0;                            ///< `max_image_tiles`
  std::size_t tile = 0;                             ///< side in pixels
  std::vector<float> pixel_values;                  ///< (samples, images, tiles, 3, tile, tile); 0 where there is no tile
  std::vector<std::int64_t> aspect_ratio_ids;       ///< (samples, images); 0 where there is no picture
  std::vector<std::int64_t> aspect_ratio_mask;      ///< (samples, images, tiles): 1 for tiles, and for the first of no picture
  std::vector<std::vector<std::size_t>> num_tiles;  ///< per sample and picture, not padded
};

/// Fits, resizes, pads, normalises and cuts pictures. Made once per model, used for any number of pictures and from any thread.
template <class = void>  // a template, so that bodies are compiled where they are used and not with every include
class BasicImageProcessor {
 public:
  /// Errors:  config_error if a value is out of range.
  explicit BasicImageProcessor(const ProcessorConfig& config = {}) : config_(config) {
    const auto require = [](bool holds, std::string_view field, std::string_view expected, auto found) {
      check<config_error>(holds,
                          [&] { return Fault{.field = concat(field), .expected = concat(expected), .found = concat(found)}; });
    };
    constexpr std::size_t most = ProcessorConfig::most_pixels, most_tiles = ProcessorConfig::most_tiles;
    require(config.max_tiles >= 1 && config.max_tiles <= most_tiles, "max_image_tiles", concat("1 to ", most_tiles),
            config.max_tiles);
    require(config.tile >= 1 && config.tile <= most && config.tile <= most / config.tile / config.max_tiles, "size",
            concat("at least 1, and at most ", most, " pixels in ", config.max_tiles, " tiles"), config.tile);
    require(std::isfinite(config.rescale_factor), "rescale_factor", "a number", config.rescale_factor);
    for (std::size_t channel = 0; channel < Image::channels; ++channel) {
      const auto mean = static_cast<float>(config.mean[channel]);
      const auto deviation = static_cast<float>(config.standard_deviation[channel]);
      require(std::isfinite(mean), "image_mean", "numbers", config.mean[channel]);
      require(std::isfinite(deviation) && deviation != 0, "image_std", "numbers other than 0", config.standard_deviation[channel]);
      for (std::size_t level = 0; level < levels; ++level) {
        float value = static_cast<float>(level);
        // The product is double and rounded once: float(level) * float(factor) has other last bits.
        if (config.rescale) value = static_cast<float>(static_cast<double>(level) * config.rescale_factor);
        if (config.normalize) value = (value - mean) / deviation;
        values_[channel][level] = value;
      }
    }
  }

  [[nodiscard]] const ProcessorConfig& config() const noexcept { return config_; }

  /// The tiles of one picture. Where the picture does not reach, they are black, normalised like the rest.
  /// Errors:  input_error if the sizes of `image` are not those of its pixels.
  [[nodiscard]] TileSet tiles(const Image& image) const {
    check_image(image);
    const std::size_t side = config_.tile, area = side * side;
    const auto [canvas, height, width] = fit_to_tiles(image.height, image.width, side, config_.max_tiles);
    TileSet set{.pixels = {}, .canvas = canvas, .tile = side, .aspect_ratio_id = aspect_ratio_id(canvas, config_.max_tiles)};
    set.pixels.reserve(canvas.tiles() * Image::channels * area);
    for (std::size_t tile = 0; tile < canvas.tiles(); ++tile) {
      for (const std::array<float, levels>& values : values_) set.pixels.insert(set.pixels.end(), area, values[0]);
    }
    const Image resized = resize_bilinear(image, height, width, config_.passes);
    for (std::size_t y = 0; y < height; ++y) {
      const std::uint8_t* pixel = resized.row(y).data();
      for (std::size_t left = 0; left < width; left += side) {
        const std::size_t tile = y / side * canvas.columns + left / side;
        float* const row = set.pixels.data() + tile * Image::channels * area + y % side * side;
        for (std::size_t x = 0; x < std::min(side, width - left); ++x) {
          for (const std::size_t channel : {0U, 1U, 2U}) row[channel * area + x] = values_[channel][*pixel++];
        }
      }
    }
    return set;
  }

  /// The pictures of each sample as one padded batch. Without any picture, all of its tensors are empty.
  /// Errors:  input_error if a tile set was made with other sizes than this processor's.
  [[nodiscard]] ImageBatch pack(std::span<const std::vector<TileSet>> samples) const {
    const std::size_t tile_size = Image::channels * config_.tile * config_.tile;
    ImageBatch batch{.samples = samples.size(),
                     .images = 0,
                     .tiles = config_.max_tiles,
                     .tile = config_.tile,
                     .pixel_values = {},
                     .aspect_ratio_ids = {},
                     .aspect_ratio_mask = {},
                     .num_tiles = {}};
    for (const std::vector<TileSet>& sample : samples) batch.images = std::max(batch.images, sample.size());
    const std::size_t slots = batch.samples * batch.images;
    batch.pixel_values.resize(slots * batch.tiles * tile_size);
    batch.aspect_ratio_ids.resize(slots);
    batch.aspect_ratio_mask.resize(slots * batch.tiles);
    for (std::size_t slot = 0; slot < slots; ++slot) batch.aspect_ratio_mask[slot * batch.tiles] = 1;
    for (std::size_t sample = 0; sample < samples.size(); ++sample) {
      std::vector<std::size_t>& num_tiles = batch.num_tiles.emplace_back();
      std::size_t slot = sample * batch.images;
      for (const TileSet& set : samples[sample]) {
        const std::size_t count = set.num_tiles();
        check(set.tile == config_.tile && count <= batch.tiles && set.pixels.size() == count * tile_size, [&] {
          return Fault{.field = "image tiles",
                       .expected = concat("at most ", batch.tiles, " of ", config_.tile, " pixels"),
                       .found = concat(count, " of ", set.tile, " pixels, ", set.pixels.size(), " numbers")};
        });
        const std::size_t first = slot * batch.tiles;
        std::copy(set.pixels.begin(), set.pixels.end(),
                  batch.pixel_values.begin() + static_cast<std::ptrdiff_t>(first * tile_size));
        std::fill_n(batch.aspect_ratio_mask.begin() + static_cast<std::ptrdiff_t>(first), count, 1);
        batch.aspect_ratio_ids[slot++] = static_cast<std::int64_t>(set.aspect_ratio_id);
        num_tiles.push_back(count);
      }
    }
    return batch;
  }

 private:
  static constexpr std::size_t levels = 256;

  ProcessorConfig config_;
  std::array<std::array<float, levels>, Image::channels> values_{};  ///< what a level of a channel becomes
};
using ImageProcessor = BasicImageProcessor<>;
#if defined(MLLAMA_ELSEWHERE)
extern template class BasicImageProcessor<>;
#endif

/// The text rows [begin, end) that see a picture.
struct ImageRange {
  std::size_t begin = 0;
  std::size_t end = 0;

  friend constexpr bool operator==(const ImageRange&, const ImageRange&) = default;
};

/// Which rows see which picture: from a picture's token, that row included, to the next picture's token or the end. Pictures whose
/// tokens are neighbours are seen by the same text: all of a run reach as far as its last.
/// Source:  transformers' get_cross_attention_token_mask.
template <class Id>
[[nodiscard]] std::vector<ImageRange> image_ranges(std::span<const Id> ids, std::type_identity_t<Id> image) {
  std::vector<ImageRange> ranges;
  for (std::size_t row = 0; row < ids.size(); ++row) {
    if (ids[row] != image) continue;
    if (!ranges.empty()) ranges.back().end = row;
    ranges.push_back({row, ids.size()});
  }
  for (std::size_t next = ranges.size(); next > 1; --next) {
    ImageRange& range = ranges[next - 2];
    if (range.end == range.begin + 1) range.end = ranges[next - 1].end;
  }
  return ranges;
}

/// The padded mask of Hugging Face's models: 1 where a text row sees a tile.
/// Shapes:  `ranges` and `num_tiles` one list per sample, with one entry per picture -> (samples, length, images, max_tiles).
/// A lone picture is seen to `length`, others to the end of their range: rows past a sample's own end are padding.
/// Errors:  input_error if a sample has another number of ranges than of pictures (image tokens lost when ids were truncated),
///          or a picture more than `max_tiles` tiles.
/// Source:  transformers' convert_sparse_cross_attention_mask_to_dense.
[[nodiscard]] inline std::vector<std::int64_t> dense_cross_attention_mask(std::span<const std::vector<ImageRange>> ranges,
                                                                          std::span<const std::vector<std::size_t>> num_tiles,
                                                                          std::size_t length, std::size_t max_tiles) {
  check(ranges.size() == num_tiles.size(), [&] {
    return Fault{.field = "cross_attention_mask", .expected = concat(num_tiles.size(), " samples"), .found = concat(ranges.size())};
  });
  std::size_t images = 0;
  for (std::size_t sample = 0; sample < ranges.size(); ++sample) {
    check(ranges[sample].size() == num_tiles[sample].size(), [&] {
      return Fault{.field = "input_ids",
                   .expected = concat(num_tiles[sample].size(), " image tokens in sample ", sample),
                   .found = concat(ranges[sample].size()),
                   .note = "were some cut off by truncation?"};
    });
    images = std::max(images, ranges[sample].size());
  }
  std::vector<std::int64_t> mask(ranges.size() * length * images * max_tiles);
  for (std::size_t sample = 0; sample < ranges.size(); ++sample) {
    for (std::size_t image = 0; image < ranges[sample].size(); ++image) {
      const std::size_t count = num_tiles[sample][image];
      check(count <= max_tiles,
            [&] { return Fault{.field = "num_tiles", .expected = concat("at most ", max_tiles), .found = concat(count)}; });
      const std::size_t end = ranges[sample].size() == 1 ? length : std::min(ranges[sample][image].end, length);
      for (std::size_t row = ranges[sample][image].begin; row < end; ++row) {
        const std::size_t first = ((sample * length + row) * images + image) * max_tiles;
        std::fill_n(mask.begin() + static_cast<std::ptrdiff_t>(first), count, 1);
      }
    }
  }
  return mask;
}

/// Checks that each text of a batch has as many image tokens as there are pictures for it.
/// Shapes:  one number per sample; `images` may be empty, which is none for each.
/// Errors:  input_error if there is neither text nor picture, if some texts have image tokens and others have none, if there are
///          image tokens but no pictures or the reverse, or if a sample's numbers differ.
/// Source:  transformers' MllamaProcessor from 4.50, which compares sample by sample; pictures that no text mentions pass there
///          and fail in the model.
inline void check_image_counts(std::span<const std::size_t> image_tokens, std::span<const std::size_t> images) {
  const auto fail = [](std::string expected, std::string found, std::string_view note) {
    throw input_error(Fault{.field = "images", .expected = std::move(expected), .found = std::move(found), .note = concat(note)});
  };
  const auto list = [](std::span<const std::size_t> counts) {
    std::string text;
    for (const std::size_t count : counts) text += concat(text.empty() ? "" : " ", count);
    return text;
  };
  const auto sum = [](std::span<const std::size_t> counts) {
    std::size_t total = 0;
    for (const std::size_t count : counts) total += count;
    return total;
  };
  const std::size_t tokens = sum(image_tokens), pictures = sum(images);
  if (image_tokens.empty() && images.empty()) fail("", "", "there is neither a text nor a picture");
  if (image_tokens.empty()) fail("a text for each sample", "pictures only", "");
  if (tokens != 0 && std::count(image_tokens.begin(), image_tokens.end(), std::size_t{0}) != 0) {
    fail("image tokens in all texts of a batch, or in none", concat(list(image_tokens), " per text"), "");
  }
  if (tokens != 0 && pictures == 0) fail(concat(tokens, " for the image tokens of the text"), "none", "");
  if (tokens == 0 && pictures != 0) fail("an image token in the text for each picture", "none", "");
  if (tokens != 0 && !std::equal(image_tokens.begin(), image_tokens.end(), images.begin(), images.end())) {
    fail(concat(list(image_tokens), " per text, by its image tokens"), list(images),
         tokens == pictures ? "the total is right: give one list of pictures per text" : "");
  }
}

}  // namespace mllama
