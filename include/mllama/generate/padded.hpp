// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <mllama/core/check.hpp>
#include <mllama/core/context.hpp>
#include <mllama/models/mllama/mllama.hpp>

/// The door for inputs as Hugging Face's processor packs them: rectangular, with padding. Inside, a batch is packed rows.

namespace mllama {

/// Transformers' six inputs. An empty span stands for an input that is not given; without `pixel_values` the run is text only.
/// Shapes:  B rows of L tokens, M pictures per row, T tiles per picture, as the spans say.
struct PaddedInputs {
  std::size_t batch = 0, length = 0, images = 0;
  std::span<const std::int64_t> input_ids;             ///< (B, L)
  std::span<const std::int64_t> attention_mask;        ///< (B, L) of 0 and 1; none: all real
  std::span<const float> pixel_values;                 ///< (B, M, T, channels, image, image)
  std::span<const std::int64_t> aspect_ratio_ids;      ///< (B, M)
  std::span<const std::int64_t> aspect_ratio_mask;     ///< (B, M, T) of 0 and 1
  std::span<const std::int64_t> cross_attention_mask;  ///< (B, L, M, T) of 0 and 1; none: every row sees everything
};

namespace detail {

/// Which tiles one sequence's rows see: equal rows share a set.
class TileVisibility {
 public:
  /// A row that sees no tile attends to all of them, if it attends at all.
  void add_row(std::span<const std::int64_t> seen, std::size_t images, std::size_t tiles, std::size_t positions) {
    if (last_ != seen.size() || !std::equal(seen.begin(), seen.end(), row_.begin(), row_.end()))
      add_set(seen, images, tiles, positions);
    set_of_row_.push_back(static_cast<std::uint32_t>(first_.size()) - 2);
    sees_image_.push_back(any_ ? 1 : 0);
  }
  void clear_rows() {
    set_of_row_.clear();
    sees_image_.clear();
  }

  [[nodiscard]] kernels::Visibility visible() const noexcept { return {set_of_row_, first_, ranges_}; }
  [[nodiscard]] std::span<const std::uint8_t> sees_image() const noexcept { return sees_image_; }

 private:
  static constexpr std::size_t none = static_cast<std::size_t>(-1);

  void add_set(std::span<const std::int64_t> seen, std::size_t images, std::size_t tiles, std::size_t positions) {
    row_.assign(seen.begin(), seen.end());
    last_ = seen.size();
    any_ = std::any_of(seen.begin(), seen.end(), [](std::int64_t entry) { return entry != 0; });
    for (std::size_t i = 0; i < images; ++i) {
      for (std::size_t t = 0; t < tiles; ++t) {
        if (any_ && seen[i * tiles + t] == 0) continue;
        const auto begin = static_cast<std::uint32_t>(t * positions), end = static_cast<std::uint32_t>((t + 1) * positions);
        if (ranges_.size() > first_.back() && ranges_.back().block == i && ranges_.back().end == begin) {
          ranges_.back().end = end;
        } else {
          ranges_.push_back({static_cast<std::uint32_t>(i), begin, end});
        }
      }
    }
    first_.push_back(static_cast<std::uint32_t>(ranges_.size()));
  }

  std::vector<std::int64_t> row_;
  std::size_t last_ = none;
  bool any_ = false;
  std::vector<std::uint32_t> set_of_row_, first_{0};
  std::vector<kernels::KeyRange> ranges_;
  std::vector<std::uint8_t> sees_image_;
};

}  // namespace detail

/// A batch of padded inputs and what it keeps for cached decoding.
/// Positions are counted as transformers' `generate` counts them: over real tokens, so that left padding does not shift them.
template <class Model>
class PaddedRun {
 public:
  using Vision = typename Model::Vision;
  using Text = typename Model::Text;
  using Logits = Tensor<float, Rows, Tokens, Dim<Text::vocab>>;

  PaddedRun(const Model& model, const Numerics& numerics) : model_(&model), numerics_(numerics) {}

  /// Runs the prompt. Rows of padding are 0 in the result.
  /// Shapes:  -> logits (B, L, vocab)
  /// Errors:  input_error naming the input, if sizes, masks or ids do not fit; the run is as before then.
  template <class Ctx>
  [[nodiscard]] Logits prompt(const PaddedInputs& inputs, Ctx& ctx) {
    PaddedRun begun(*model_, numerics_);
    Logits logits = begun.begin(inputs, ctx);
    *this = std::move(begun);
    return logits;
  }

  /// One more token for every row of the batch, seeing what the last position of the prompt saw.
  /// Shapes:  ids (B) -> logits (B, 1, vocab)
  template <class Ctx>
  [[nodiscard]] Logits step(std::span<const std::int64_t> next, Ctx& ctx) {
    check(next.size() == batch_,
          [&] { return Fault{.field = "decode_input_ids", .expected = concat(batch_, " rows"), .found = concat(next.size())}; });
    std::vector<std::int32_t> ids, positions;
    std::vector<std::size_t> rows;
    for (std::size_t b = 0; b < batch_; ++b) {
      Sequence& sequence = sequences_[b];
      ids.push_back(id(next[b]));
      positions.push_back(static_cast<std::int32_t>(sequence.cache.length()));
      rows.push_back(b);
      sequence.rows = 1;
      sequence.visibility.clear_rows();
      if (images_ != 0) add_visibility(sequence, sequence.last_mask);
    }
    return scatter(run(ids, positions, ctx), batch_, 1, rows);
  }

  /// Where each packed row of the prompt lies in the padded (B, L).
  [[nodiscard]] std::span<const std::size_t> padded_rows() const noexcept { return row_of_; }

 private:
  struct Sequence {
    KeyValueCache<Text> cache;
    detail::TileVisibility visibility;
    std::vector<std::int64_t> last_mask;
    std::size_t rows = 0;
  };

  static std::int32_t id(std::int64_t value) {
    check(value >= 0 && value < Text::vocab + Text::extra_embeddings, [&] {
      return Fault{.field = "input_ids",
                   .expected = concat("ids from 0 to ", Text::vocab + Text::extra_embeddings - 1),
                   .found = concat(value)};
    });
    return static_cast<std::int32_t>(value);
  }

  static void check_size(std::string_view field, std::size_t expected, std::size_t found, bool required = true) {
    check(found == expected || (!required && found == 0),
          [&] { return Fault{.field = std::string(field), .expected = concat(expected, " elements"), .found = concat(found)}; });
  }
  static void check_binary(std::string_view field, std::span<const std::int64_t> mask) {
    for (const std::int64_t value : mask) {
      check(value == 0 || value == 1,
            [&] { return Fault{.field = std::string(field), .expected = "0 or 1", .found = concat(value)}; });
    }
  }
  template <class Ctx>
  Logits begin(const PaddedInputs& inputs, Ctx& ctx) {
    if (!inputs.pixel_values.empty()) model_->require_vision("pixel_values");
    check_sizes(inputs);
    batch_ = inputs.batch;
    encode_images(inputs, ctx);
    sequences_.resize(batch_);
    std::vector<std::int32_t> ids, positions;
    for (std::size_t b = 0; b < batch_; ++b) {
      Sequence& sequence = sequences_[b];
      sequence.cache = KeyValueCache<Text>(ctx.key_format(), ctx.memory());
      for (std::size_t l = 0; l < inputs.length; ++l) {
        const std::size_t at = b * inputs.length + l;
        if (!inputs.attention_mask.empty() && inputs.attention_mask[at] == 0) continue;
        ids.push_back(id(inputs.input_ids[at]));
        positions.push_back(static_cast<std::int32_t>(sequence.rows++));
        row_of_.push_back(at);
        if (images_ != 0) add_visibility(sequence, mask_row(inputs, at));
      }
      if (images_ != 0) sequence.last_mask = mask_row(inputs, (b + 1) * inputs.length - 1);
    }
    return scatter(run(ids, positions, ctx), batch_, inputs.length, row_of_);
  }

  template <class Ctx>
  void encode_images(const PaddedInputs& in, Ctx& ctx) {
    images_ = in.pixel_values.empty() ? 0 : in.images;
    for (std::size_t i = 0; i < batch_ * images_; ++i) {
      encoded_.push_back(model_->encode(picture_tiles(in, i), numerics_, ctx));
    }
    for (const EncodedImage<Text>& image : encoded_) image_pointers_.push_back(&image);
  }

 public:
  /// Errors:  input_error if the inputs do not fit each other and the model.
  static void check_sizes(const PaddedInputs& in) {
    const std::size_t tokens = in.batch * in.length, pictures = in.pixel_values.empty() ? 0 : in.batch * in.images;
    constexpr std::size_t tiles = Vision::tiles, picture = tiles * Vision::channels * Vision::image * Vision::image;
    check_size("input_ids", tokens, in.input_ids.size());
    check_size("attention_mask", tokens, in.attention_mask.size(), false);
    check_binary("attention_mask", in.attention_mask);
    if (in.pixel_values.empty()) return;
    check_size("pixel_values", pictures * picture, in.pixel_values.size());
    check_size("aspect_ratio_ids", pictures, in.aspect_ratio_ids.size());
    check_size("aspect_ratio_mask", pictures * tiles, in.aspect_ratio_mask.size());
    check_size("cross_attention_mask", tokens * in.images * tiles, in.cross_attention_mask.size(), false);
    check_binary("aspect_ratio_mask", in.aspect_ratio_mask);
    check_binary("cross_attention_mask", in.cross_attention_mask);
  }

  /// The i-th picture of padded inputs, counted over the whole batch.
  [[nodiscard]] static PictureTiles<Vision> picture_tiles(const PaddedInputs& in, std::size_t index) {
    constexpr std::size_t tiles = Vision::tiles, picture = tiles * Vision::channels * Vision::image * Vision::image;
    PictureTiles<Vision> result;
    result.pixels = decltype(result.pixels)(in.pixel_values.data() + index * picture);
    const std::int64_t ratio = in.aspect_ratio_ids[index];
    check(0 <= ratio && ratio <= static_cast<std::int64_t>(Vision::aspect_ratios.size()), [&] {
      return Fault{.field = "aspect_ratio_ids", .expected = concat("0 to ", Vision::aspect_ratios.size()), .found = concat(ratio)};
    });
    result.aspect_ratio_id = static_cast<std::size_t>(ratio);
    for (std::size_t t = 0; t < tiles; ++t) result.real_tiles[t] = in.aspect_ratio_mask[index * tiles + t] != 0;
    return result;
  }

 private:
  /// The row of the cross mask at padded position `at`; without a mask everything is visible.
  std::vector<std::int64_t> mask_row(const PaddedInputs& in, std::size_t at) const {
    const std::size_t width = images_ * Vision::tiles;
    if (in.cross_attention_mask.empty()) return std::vector<std::int64_t>(width, 1);
    const auto row = in.cross_attention_mask.subspan(at * width, width);
    return {row.begin(), row.end()};
  }
  void add_visibility(Sequence& sequence, std::span<const std::int64_t> row) const {
    sequence.visibility.add_row(row, images_, Vision::tiles, VisionShape<Vision>::positions);
  }

  template <class Ctx>
  auto run(std::span<const std::int32_t> ids, std::span<const std::int32_t> positions, Ctx& ctx) {
    std::vector<TextSequence<Text>> parts;
    for (std::size_t b = 0; b < batch_; ++b) {
      Sequence& sequence = sequences_[b];
      const auto images = std::span(image_pointers_).subspan(b * images_, images_);
      parts.push_back({sequence.rows, &sequence.cache, images, sequence.visibility.visible(), sequence.visibility.sees_image()});
    }
    const auto states = model_->forward({ids, positions, parts}, numerics_, ctx);
    return model_->language_model.logits(states, ctx);
  }

  template <class Packed>
  static Logits scatter(const Packed& packed, std::size_t batch, std::size_t length, std::span<const std::size_t> rows) {
    Logits padded({batch, length});
    padded.fill(0);
    for (std::size_t r = 0; r < rows.size(); ++r) std::ranges::copy(packed[r], padded.data() + rows[r] * Text::vocab);
    return padded;
  }

  const Model* model_;
  Numerics numerics_;
  std::size_t batch_ = 0, images_ = 0;
  std::vector<EncodedImage<Text>> encoded_;
  std::vector<const EncodedImage<Text>*> image_pointers_;
  std::vector<Sequence> sequences_;
  std::vector<std::size_t> row_of_;
};

}  // namespace mllama
