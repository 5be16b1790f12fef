// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <memory_resource>
#include <span>
#include <utility>
#include <vector>

#include <mllama/core/check.hpp>
#include <mllama/core/context.hpp>
#include <mllama/generate/picture.hpp>
#include <mllama/generate/sampler.hpp>
#include <mllama/layers/screened_head.hpp>
#include <mllama/models/mllama/mllama.hpp>

namespace mllama {

/// One sequence that grows: its ids, its pictures and both caches. Each image token stands for a picture, in order.
/// A row sees the pictures of the last run of adjacent image tokens up to itself, and no earlier ones; rows before the first
/// picture see none. This is what transformers' processor writes into `cross_attention_mask`, row by row. Refers to model and
/// context, which must outlive it.
template <class Model, class Ctx>
class Session {
 public:
  using Text = typename Model::Text;
  using Picture = mllama::Picture<Model>;
  static constexpr std::size_t all_candidates = std::numeric_limits<std::size_t>::max();

  Session(const Model& model, Ctx& ctx, const Numerics& numerics = Model::numerics)
      : model_(&model), ctx_(&ctx), numerics_(numerics), cache_(ctx.key_format(), ctx.memory()) {}

  /// Computes logits in two stages from now on, where a call asks for a few of them: see ScreenedHead. `head` is made from the model's
  /// `lm_head` and must outlive the session; null ends it.
  void screen(const ScreenedLogits<Text>* head) noexcept { head_ = head; }

  /// Makes room, so that no step up to this length allocates.
  void reserve(std::size_t positions) {
    cache_.reserve(positions);
    ids_.reserve(positions);
  }

  /// Appends tokens, and a picture for each image token among them.
  /// Returns:  logits of the last position (vocab), valid until the next call. With a screened head, `not_a_candidate` may stand for
  ///           those that are not among the `candidates` largest.
  /// Errors:   input_error if ids are out of range or pictures and image tokens do not match; the session is as before then.
  std::span<const float> append(std::span<const std::int32_t> ids, std::span<const Picture> pictures = {},
                                std::size_t candidates = all_candidates) {
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
    return run(cache_.length(), candidates);
  }

  /// Forgets what lies beyond the first `length` tokens.
  void truncate(std::size_t length) {
    if (length >= ids_.size()) return;
    ids_.resize(length);
    pictures_.resize(static_cast<std::size_t>(std::count(ids_.begin(), ids_.end(), Text::image_token)));
    cache_.truncate(numerics_.zero_masked_cross_rows ? length : 0);
  }

  [[nodiscard]] std::span<const std::int32_t> ids() const noexcept { return ids_; }
  [[nodiscard]] std::span<const Picture> pictures() const noexcept { return pictures_; }
  [[nodiscard]] Ctx& context() noexcept { return *ctx_; }

 private:
  /// Runs the rows from `first` on.
  std::span<const float> run(std::size_t first, std::size_t candidates) {
    const std::size_t rows = ids_.size() - first;
    images_.clear();
    for (const Picture& picture : pictures_) images_.push_back(picture.get());
    positions_.clear();
    for (std::size_t r = first; r < ids_.size(); ++r) positions_.push_back(static_cast<std::int32_t>(r));
    look(first);
    const TextSequence<Text> sequence{rows, &cache_, images_, {set_of_row_, first_range_, ranges_}, sees_image_};
    const auto states = model_->forward({std::span(ids_).subspan(first), positions_, {&sequence, 1}}, numerics_, *ctx_);
    const auto last = states.view().slice(rows - 1, 1);
    const auto logits = head_ != nullptr ? model_->language_model.logits(last, *head_, candidates, *ctx_)
                                         : model_->language_model.logits(last, *ctx_);
    logits_.assign(logits.flat().begin(), logits.flat().end());
    return logits_;
  }

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

  const Model* model_;
  Ctx* ctx_;
  Numerics numerics_;
  const ScreenedLogits<Text>* head_ = nullptr;
  KeyValueCache<Text> cache_;
  template <class T>
  using List = std::pmr::vector<T>;
  MemorySource* source_ = &ctx_->memory();
  List<std::int32_t> ids_{source_}, positions_{source_};
  List<Picture> pictures_{source_};
  List<const EncodedImage<Text>*> images_{source_};
  List<std::uint32_t> set_of_row_{source_}, first_range_{source_};
  List<kernels::KeyRange> ranges_{source_};
  List<std::uint8_t> sees_image_{source_};
  List<float> logits_{source_};
};

/// When a generation ends.
struct StopRules {
  std::vector<std::int32_t> eos;  ///< after any of these, which is part of the result
  std::size_t max_new_tokens = 20;
};

/// Appends a prompt and generates. `on_token(id)` is called with each new token, an end token included, and ends the generation by
/// returning false.
/// Returns:  the new tokens. The last one has not been run through the model, like in transformers.
template <class Model, class Ctx, class OnToken>
std::vector<std::int32_t> generate(Session<Model, Ctx>& session, std::span<const std::int32_t> prompt,
                                   std::span<const Picture<Model>> pictures, Sampler& sampler, const StopRules& stop,
                                   OnToken&& on_token) {
  std::vector<std::int32_t> history(session.ids().begin(), session.ids().end()), generated;
  history.insert(history.end(), prompt.begin(), prompt.end());
  const std::size_t start = history.size();
  const std::size_t room = start + std::min(stop.max_new_tokens, std::size_t{1024});  // beyond, caches double when they are full
  session.reserve(room);
  history.reserve(room);
  const std::size_t candidates = sampler.candidates_needed();
  std::span<const float> logits = session.append(prompt, pictures, candidates);
  for (std::size_t n = 0; n < stop.max_new_tokens; ++n) {
    const std::int32_t id = sampler(logits, history);
    history.push_back(id);
    if (!on_token(id) || std::find(stop.eos.begin(), stop.eos.end(), id) != stop.eos.end() || n + 1 == stop.max_new_tokens) break;
    logits = session.append({&id, 1}, {}, candidates);
  }
  generated.assign(history.begin() + static_cast<std::ptrdiff_t>(start), history.end());
  return generated;
}

}  // namespace mllama
