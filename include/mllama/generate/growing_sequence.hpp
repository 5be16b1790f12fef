// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include <mllama/core/check.hpp>
#include <mllama/generate/picture.hpp>
#include <mllama/models/mllama/mllama.hpp>

namespace mllama {

/// What one conversation is to the model: ids, pictures and both caches. Each image token stands for a picture, in order.
/// A row sees the pictures of the last run of adjacent image tokens up to itself, and no earlier ones; rows before the first
/// picture see none. This is what transformers' processor writes into `cross_attention_mask`, row by row.
template <class Model>
class GrowingSequence {
 public:
  using Text = typename Model::Text;
  using Picture = mllama::Picture<Model>;

  GrowingSequence(const Numerics& numerics, KeyFormat format, MemorySource& memory)
      : numerics_(numerics),
        cache_(format, memory),
        ids_(&memory),
        pictures_(&memory),
        images_(&memory),
        set_of_row_(&memory),
        first_range_(&memory),
        ranges_(&memory),
        sees_image_(&memory) {}

  /// Makes room, so that no step up to this length allocates.
  void reserve(std::size_t positions) {
    cache_.reserve(positions);
    ids_.reserve(positions);
  }

  /// Adds tokens, and a picture for each image token among them. They are computed by the next forward pass.
  /// Errors:  input_error if ids are out of range or pictures and image tokens do not match; the sequence is as before then.
  void add(std::span<const std::int32_t> ids, std::span<const Picture> pictures) {
    const auto tokens = static_cast<std::size_t>(std::count(ids.begin(), ids.end(), Text::image_token));
    check(!ids.empty(), [] { return Fault{.field = "input_ids", .expected = "at least one", .found = "none"}; });
    check(tokens == pictures.size(), [&] {
      return Fault{.field = "images", .expected = concat(tokens, " for as many image tokens"), .found = concat(pictures.size())};
    });
    check(std::find(pictures.begin(), pictures.end(), nullptr) == pictures.end(),
          [] { return Fault{.field = "images", .expected = "encoded pictures", .found = "a null pointer"}; });
    for (const std::int32_t id : ids) {
      check(0 <= id && id < Text::vocab + Text::extra_embeddings, [&] {
        return Fault{.field = "input_ids",
                     .expected = concat("an id from 0 to ", Text::vocab + Text::extra_embeddings - 1),
                     .found = concat(id)};
      });
    }
    ids_.insert(ids_.end(), ids.begin(), ids.end());
    pictures_.insert(pictures_.end(), pictures.begin(), pictures.end());
    // Where rows without a picture attend to all of them, a new picture changes earlier rows.
    if (!pictures.empty() && !numerics_.zero_masked_cross_rows) cache_.truncate(0);
  }

  /// Forgets what lies beyond the first `length` tokens.
  void truncate(std::size_t length) {
    if (length >= ids_.size()) return;
    ids_.resize(length);
    pictures_.resize(static_cast<std::size_t>(std::count(ids_.begin(), ids_.end(), Text::image_token)));
    cache_.truncate(numerics_.zero_masked_cross_rows ? length : 0);
  }

  /// Tokens that have not been computed.
  [[nodiscard]] std::span<const std::int32_t> waiting() const noexcept { return std::span(ids_).subspan(cache_.length()); }

  /// These as part of a batch, valid until the sequence changes. Their positions are added to `positions`.
  [[nodiscard]] TextSequence<Text> rows(SourcedList<std::int32_t>& positions) {
    const std::size_t first = cache_.length();
    images_.clear();
    for (const Picture& picture : pictures_) images_.push_back(picture.get());
    for (std::size_t r = first; r < ids_.size(); ++r) positions.push_back(static_cast<std::int32_t>(r));
    look(first);
    return {ids_.size() - first, &cache_, images_, {set_of_row_, first_range_, ranges_}, sees_image_};
  }

  [[nodiscard]] std::span<const std::int32_t> ids() const noexcept { return ids_; }
  [[nodiscard]] std::span<const Picture> pictures() const noexcept { return pictures_; }

 private:
  /// Builds the visibility of rows from `first` on. Set 0: all of every picture, for rows that see none.
  void look(std::size_t first) {
    set_of_row_.clear();
    sees_image_.clear();
    ranges_.clear();
    first_range_.assign(1, 0);
    for (std::size_t i = 0; i < images_.size(); ++i) ranges_.push_back({index(i), 0, index(images_[i]->block(0).count)});
    first_range_.push_back(index(ranges_.size()));

    std::size_t run = 0, seen = 0;  // pictures [run, seen) are visible
    for (std::size_t r = 0; r < ids_.size(); ++r) {
      const bool is_image = ids_[r] == Text::image_token;
      if (is_image) {
        if (r == 0 || ids_[r - 1] != Text::image_token) run = seen;
        ++seen;
      }
      if (r < first) continue;
      if (seen != 0 && (is_image || r == first)) {
        for (std::size_t i = run; i < seen; ++i)
          ranges_.push_back({index(i), 0, index(images_[i]->tiles * images_[i]->tile_positions)});
        first_range_.push_back(index(ranges_.size()));
      }
      set_of_row_.push_back(seen == 0 ? 0 : index(first_range_.size()) - 2);
      sees_image_.push_back(seen == 0 ? 0 : 1);
    }
  }
  static std::uint32_t index(std::size_t value) noexcept { return static_cast<std::uint32_t>(value); }

  Numerics numerics_;
  KeyValueCache<Text> cache_;
  SourcedList<std::int32_t> ids_;
  SourcedList<Picture> pictures_;
  SourcedList<const EncodedImage<Text>*> images_;
  SourcedList<std::uint32_t> set_of_row_, first_range_;
  SourcedList<kernels::KeyRange> ranges_;
  SourcedList<std::uint8_t> sees_image_;
};

}  // namespace mllama
