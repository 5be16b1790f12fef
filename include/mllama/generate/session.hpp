// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <utility>
#include <vector>

#include <mllama/core/check.hpp>
#include <mllama/core/context.hpp>
#include <mllama/generate/growing_sequence.hpp>
#include <mllama/generate/picture.hpp>
#include <mllama/generate/sampler.hpp>
#include <mllama/layers/screened_head.hpp>
#include <mllama/models/mllama/mllama.hpp>

namespace mllama {

/// One sequence that grows, and is computed as it does: see GrowingSequence. Refers to model and context, which must outlive it.
template <class Model, class Ctx>
class Session {
 public:
  using Text = typename Model::Text;
  using Picture = mllama::Picture<Model>;
  static constexpr std::size_t all_candidates = std::numeric_limits<std::size_t>::max();

  Session(const Model& model, Ctx& ctx, const Numerics& numerics = Model::numerics)
      : model_(&model),
        ctx_(&ctx),
        numerics_(numerics),
        sequence_(numerics, ctx.key_format(), ctx.memory()),
        positions_(&ctx.memory()),
        logits_(&ctx.memory()) {}

  /// Computes logits in two stages from now on, where a call asks for a few of them: see ScreenedHead. `head` is made from the model's
  /// `lm_head` and must outlive the session; null ends it.
  void screen(const ScreenedLogits<Text>* head) noexcept { head_ = head; }

  /// Makes room, so that no step up to this length allocates.
  void reserve(std::size_t positions) { sequence_.reserve(positions); }

  /// Appends tokens, and a picture for each image token among them.
  /// Returns:  logits of the last position (vocab), valid until the next call. With a screened head, `not_a_candidate` may stand for
  ///           those that are not among the `candidates` largest.
  /// Errors:   input_error if ids are out of range or pictures and image tokens do not match; the session is as before then.
  std::span<const float> append(std::span<const std::int32_t> ids, std::span<const Picture> pictures = {},
                                std::size_t candidates = all_candidates) {
    sequence_.add(ids, pictures);
    positions_.clear();
    const TextSequence<Text> rows = sequence_.rows(positions_);
    const auto states = model_->forward({sequence_.waiting(), positions_, {&rows, 1}}, numerics_, *ctx_);
    const auto last = states.view().slice(rows.rows - 1, 1);
    const auto logits = head_ != nullptr ? model_->language_model.logits(last, *head_, candidates, *ctx_)
                                         : model_->language_model.logits(last, *ctx_);
    logits_.assign(logits.flat().begin(), logits.flat().end());
    return logits_;
  }

  /// Forgets what lies beyond the first `length` tokens.
  void truncate(std::size_t length) { sequence_.truncate(length); }

  [[nodiscard]] std::span<const std::int32_t> ids() const noexcept { return sequence_.ids(); }
  [[nodiscard]] std::span<const Picture> pictures() const noexcept { return sequence_.pictures(); }
  [[nodiscard]] Ctx& context() noexcept { return *ctx_; }

 private:
  const Model* model_;
  Ctx* ctx_;
  Numerics numerics_;
  const ScreenedLogits<Text>* head_ = nullptr;
  GrowingSequence<Model> sequence_;
  SourcedList<std::int32_t> positions_;
  SourcedList<float> logits_;
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
