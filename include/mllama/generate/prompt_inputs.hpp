// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include <mllama/generate/padded.hpp>
#include <mllama/vision/processor.hpp>

namespace mllama {

/// One prompt and its pictures, as transformers' processor packs them: a batch of one row, without padding.
class PromptInputs {
 public:
  PromptInputs() = default;
  /// `pictures` is a batch of one sample. Without pictures it may be empty.
  /// Errors:  input_error if there are not as many pictures as image tokens.
  PromptInputs(std::span<const std::int32_t> ids, ImageBatch pictures, std::int32_t image)
      : ids_(ids.begin(), ids.end()), pictures_(std::move(pictures)) {
    const std::vector<ImageRange> ranges[]{image_ranges(ids, image)};
    const std::vector<std::size_t> none[1];
    const std::span num_tiles =
        pictures_.num_tiles.empty() ? std::span(none) : std::span<const std::vector<std::size_t>>(pictures_.num_tiles);
    mask_ = dense_cross_attention_mask(ranges, num_tiles, ids.size(), pictures_.tiles);
  }

  /// One more token, which sees what the last one sees.
  void append(std::int64_t id) {
    ids_.push_back(id);
    const std::size_t width = pictures_.images * pictures_.tiles, last = mask_.size() - width;
    for (std::size_t i = 0; i < width; ++i) mask_.push_back(mask_[last + i]);
  }

  [[nodiscard]] std::span<const std::int64_t> ids() const noexcept { return ids_; }
  [[nodiscard]] PaddedInputs padded() const noexcept {
    return {.batch = 1,
            .length = ids_.size(),
            .images = pictures_.images,
            .input_ids = ids_,
            .attention_mask = {},
            .pixel_values = pictures_.pixel_values,
            .aspect_ratio_ids = pictures_.aspect_ratio_ids,
            .aspect_ratio_mask = pictures_.aspect_ratio_mask,
            .cross_attention_mask = mask_};
  }

 private:
  std::vector<std::int64_t> ids_, mask_;
  ImageBatch pictures_;
};

}  // namespace mllama
