// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <memory>
#include <vector>

#include <mllama/generate/padded.hpp>
#include <mllama/generate/session.hpp>
#include <mllama/vision/processor.hpp>
#include <unit/models/tiny.hpp>

namespace mllama_test {

inline constexpr std::int32_t image = TinyText::image_token;
using Ids = std::vector<std::int32_t>;
using TinyPicture = mllama::Picture<Tiny>;

/// The six inputs of texts, whose pictures are the next ones of a list, padded as transformers' processor does it.
struct PaddedPrompt {
  std::size_t batch, length = 0, images = 0;
  std::vector<std::int64_t> input_ids, attention_mask, aspect_ratio_ids, aspect_ratio_mask, cross_attention_mask;
  std::vector<float> pixel_values;

  explicit PaddedPrompt(const std::vector<Ids>& texts, std::vector<RandomPicture<>*> pictures = {}, bool left = false)
      : batch(texts.size()) {
    constexpr std::size_t tiles = TinyVision::tiles, picture = tiles * 3 * TinyVision::image * TinyVision::image;
    for (const Ids& text : texts) {
      length = std::max(length, text.size());
      images = std::max(images, static_cast<std::size_t>(std::ranges::count(text, image)));
    }
    pixel_values.resize(batch * images * picture);
    aspect_ratio_ids.resize(batch * images);
    aspect_ratio_mask.resize(batch * images * tiles);
    std::vector<std::vector<mllama::ImageRange>> ranges;
    std::vector<std::vector<std::size_t>> num_tiles(batch);
    std::size_t next = 0;
    for (std::size_t b = 0; b < batch; ++b) {
      const std::size_t padding = length - texts[b].size(), before = left ? padding : 0;
      std::vector<std::int64_t> row(length, 0), real(length, 0);
      std::ranges::copy(texts[b], row.begin() + static_cast<std::ptrdiff_t>(before));
      std::fill_n(real.begin() + static_cast<std::ptrdiff_t>(before), texts[b].size(), 1);
      ranges.push_back(mllama::image_ranges(std::span<const std::int64_t>(row), image));
      input_ids.insert(input_ids.end(), row.begin(), row.end());
      attention_mask.insert(attention_mask.end(), real.begin(), real.end());
      for (std::size_t i = 0; i < images; ++i) {
        const std::size_t slot = b * images + i;
        aspect_ratio_mask[slot * tiles] = 1;
        if (i >= ranges.back().size()) continue;
        RandomPicture<>& source = *pictures[next++];
        std::ranges::copy(source.pixels(), pixel_values.begin() + static_cast<std::ptrdiff_t>(slot * picture));
        aspect_ratio_ids[slot] = static_cast<std::int64_t>(source.tiles().aspect_ratio_id);
        std::ranges::copy(source.tiles().real_tiles, aspect_ratio_mask.begin() + static_cast<std::ptrdiff_t>(slot * tiles));
        num_tiles[b].push_back(static_cast<std::size_t>(std::ranges::count(source.tiles().real_tiles, true)));
      }
    }
    if (images != 0) cross_attention_mask = mllama::dense_cross_attention_mask(ranges, num_tiles, length, tiles);
  }

  [[nodiscard]] mllama::PaddedInputs inputs() const {
    return {.batch = batch,
            .length = length,
            .images = images,
            .input_ids = input_ids,
            .attention_mask = attention_mask,
            .pixel_values = pixel_values,
            .aspect_ratio_ids = aspect_ratio_ids,
            .aspect_ratio_mask = aspect_ratio_mask,
            .cross_attention_mask = cross_attention_mask};
  }
};

/// Keys and values of a picture.
template <class Ctx>
TinyPicture encoded(const Tiny& model, RandomPicture<>& picture, const mllama::Numerics& numerics, Ctx& ctx) {
  return std::make_shared<const mllama::EncodedImage<TinyText>>(model.encode(picture.tiles(), numerics, ctx));
}

/// The input_error that `action` throws.
template <class Action>
mllama::Fault refused(Action&& action) {
  try {
    action();
  } catch (const mllama::input_error& error) {
    return error.fault();
  }
  return {.file = {}, .field = "nothing was refused", .expected = {}, .found = {}, .note = {}};
}

}  // namespace mllama_test
