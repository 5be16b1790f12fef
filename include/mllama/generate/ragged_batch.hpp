// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include <mllama/core/check.hpp>
#include <mllama/core/context.hpp>
#include <mllama/generate/growing_sequence.hpp>
#include <mllama/generate/picture.hpp>
#include <mllama/generate/sampler.hpp>
#include <mllama/generate/session.hpp>
#include <mllama/models/mllama/mllama.hpp>

namespace mllama {

/// Several conversations in one forward pass, of different lengths, with different pictures, the same ones, or none: weights are read
/// once for all of them. There is no padding.
///
///     RaggedBatch batch(model, ctx);
///     for (const auto& prompt : prompts) batch.append(batch.add(), prompt.ids, prompt.pictures);
///     batch.run();
///     batch.logits(0);
///
/// A conversation's numbers are those of a Session within the rounding of float32, in the arithmetic F32 bit for bit. In Int16, BF16 and
/// Int8, products and attention of up to 8 rows are others than those of more, and in every arithmetic those of 48 rows and more where the
/// processor has AMX (MLLAMA_ARCH=avx512bf16 does without): bits are the same where the rows of the batch and those of the Session are
/// both few or both many. Refers to model and context, which must outlive it.
template <class Model, class Ctx>
class RaggedBatch {
 public:
  using Text = typename Model::Text;
  using Picture = mllama::Picture<Model>;

  explicit RaggedBatch(const Model& model, Ctx& ctx, const Numerics& numerics = Model::numerics)
      : model_(&model), ctx_(&ctx), numerics_(numerics) {}

  /// A new conversation.
  /// Returns:  its number
  std::size_t add() {
    sequences_.push_back({GrowingSequence<Model>(numerics_, ctx_->key_format(), ctx_->memory())});
    return sequences_.size() - 1;
  }
  [[nodiscard]] std::size_t size() const noexcept { return sequences_.size(); }

  /// Makes room in a conversation, so that no step up to this length allocates.
  void reserve(std::size_t conversation, std::size_t positions) { at(conversation).sequence.reserve(positions); }

  /// Adds tokens, and a picture for each image token among them, to what the next run computes.
  /// Errors:  input_error if there is no such conversation, ids are out of range, or pictures and image tokens do not match; the batch
  ///          is as before then.
  void append(std::size_t conversation, std::span<const std::int32_t> ids, std::span<const Picture> pictures = {}) {
    at(conversation).sequence.add(ids, pictures);
  }

  /// Computes what has been appended since the last run, in one forward pass. Without any, nothing happens.
  void run() {
    ids_.clear();
    positions_.clear();
    rows_.clear();
    std::size_t count = 0;
    for (Conversation& one : sequences_) {
      one.logits = none;
      const auto waiting = one.sequence.waiting();
      if (waiting.empty()) continue;
      one.logits = count++;
      ids_.insert(ids_.end(), waiting.begin(), waiting.end());
      rows_.push_back(one.sequence.rows(positions_));
    }
    if (count == 0) return;
    const auto states = model_->forward({ids_, positions_, rows_}, numerics_, *ctx_);
    auto last = ctx_->template tensor<float, Tokens, Dim<Text::hidden>>({count});
    std::size_t row = 0;
    for (std::size_t i = 0; i < count; ++i) {
      row += rows_[i].rows;
      std::ranges::copy(states.view()[row - 1], last[i].begin());
    }
    const auto logits = model_->language_model.logits(last, *ctx_);
    logits_.assign(logits.flat().begin(), logits.flat().end());
  }

  /// Logits of a conversation's last position (vocab), valid until the next run. Empty if the last run had nothing of it to compute.
  [[nodiscard]] std::span<const float> logits(std::size_t conversation) const {
    const std::size_t row = at(conversation).logits;
    if (row == none) return {};
    return std::span(logits_).subspan(row * Text::vocab, Text::vocab);
  }

  [[nodiscard]] std::span<const std::int32_t> ids(std::size_t conversation) const { return at(conversation).sequence.ids(); }
  /// Forgets what lies beyond a conversation's first `length` tokens.
  void truncate(std::size_t conversation, std::size_t length) { at(conversation).sequence.truncate(length); }
  [[nodiscard]] Ctx& context() noexcept { return *ctx_; }

 private:
  static constexpr auto none = static_cast<std::size_t>(-1);
  struct Conversation {
    GrowingSequence<Model> sequence;
    std::size_t logits = none;  ///< which row of the last run's
  };

  [[nodiscard]] const Conversation& at(std::size_t conversation) const {
    check(conversation < sequences_.size(), [&] {
      return Fault{.field = "conversation",
                   .expected = concat("one of the ", sequences_.size(), " of the batch"),
                   .found = concat("number ", conversation)};
    });
    return sequences_[conversation];
  }
  [[nodiscard]] Conversation& at(std::size_t conversation) {
    return const_cast<Conversation&>(static_cast<const RaggedBatch&>(*this).at(conversation));
  }

  const Model* model_;
  Ctx* ctx_;
  Numerics numerics_;
  std::vector<Conversation> sequences_;
  std::vector<std::int32_t> ids_;
  SourcedList<std::int32_t> positions_{&ctx_->memory()};
  std::vector<TextSequence<Text>> rows_;
  std::vector<float> logits_;
};

/// Runs what has been appended, and continues those conversations at once, each with its own sampler and to its own end.
/// `on_token(conversation, id)` is called with each new token, an end token included; it ends that conversation by returning false.
/// Returns:  the new tokens of each conversation. The last one has not been run through the model, like in transformers.
/// Errors:   input_error if there are not as many samplers as conversations
template <class Model, class Ctx, class OnToken>
std::vector<std::vector<std::int32_t>> generate(RaggedBatch<Model, Ctx>& batch, std::span<Sampler> samplers, const StopRules& stop,
                                                OnToken&& on_token) {
  check(samplers.size() == batch.size(),
        [&] { return Fault{.field = "samplers", .expected = concat(batch.size()), .found = concat(samplers.size())}; });
  std::vector<std::vector<std::int32_t>> generated(batch.size()), history(batch.size());
  const std::size_t room = std::min(stop.max_new_tokens, std::size_t{1024});  // beyond, caches double when they are full
  for (std::size_t c = 0; c < batch.size(); ++c) {
    const auto ids = batch.ids(c);
    history[c].reserve(ids.size() + room);
    history[c].assign(ids.begin(), ids.end());
    generated[c].reserve(room);
    batch.reserve(c, ids.size() + room);
  }
  bool any = stop.max_new_tokens != 0;
  while (any) {
    batch.run();
    any = false;
    for (std::size_t c = 0; c < batch.size(); ++c) {
      const auto logits = batch.logits(c);
      if (logits.empty()) continue;
      const std::int32_t id = samplers[c](logits, history[c]);
      history[c].push_back(id);
      generated[c].push_back(id);
      const bool ends = !on_token(c, id) || std::ranges::find(stop.eos, id) != stop.eos.end();
      if (ends || generated[c].size() == stop.max_new_tokens) continue;
      batch.append(c, {&id, 1});
      any = true;
    }
  }
  return generated;
}

}  // namespace mllama
