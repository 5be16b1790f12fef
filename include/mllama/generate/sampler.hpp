// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include <mllama/core/check.hpp>

/// From logits to the next token, in the order and with the semantics of transformers' `generate`.

namespace mllama {

/// How the next token is chosen. The defaults are greedy.
struct SamplingSettings {
  bool do_sample = false;  ///< false: the largest logit, the first of equals
  double temperature = 1;  ///< logits are divided by it; above 0
  int top_k = 0;           ///< keep scores not below the k-th largest; 0: off
  double top_p = 1;        ///< keep the most probable tokens whose probabilities reach this sum; 1: off
  double min_p = 0;        ///< keep probabilities of at least this share of the largest; 0: off
  double repetition_penalty =
      1;  ///< positive scores of tokens that have occurred are divided by it, negative ones multiplied; 1: off
};

/// Chooses tokens. Seeded: the same logits and the same seed give the same tokens on every machine.
/// After the first token nothing is allocated.
/// Source:  transformers' logits processors: repetition penalty, then temperature, top-k, top-p, min-p
template <class = void>  // a template, so that bodies are compiled where they are used and not with every include
class BasicSampler {
 public:
  struct Candidate {
    float score;
    std::int32_t id;
  };

  /// Errors:  input_error if a setting is out of its range.
  explicit BasicSampler(const SamplingSettings& settings = {}, std::uint64_t seed = 0) : settings_(settings), state_(seed) {
    const auto require = [](bool holds, std::string_view field, std::string_view expected, double found) {
      check(holds, [&] { return Fault{.field = std::string(field), .expected = std::string(expected), .found = concat(found)}; });
    };
    // As floats, which scores are: 0 over a temperature that is rounded to 0 has no place in an order.
    const auto is_divisor = [](double setting) {
      const auto divisor = static_cast<float>(setting);
      return divisor > 0 && std::isfinite(divisor);
    };
    require(is_divisor(settings.temperature), "temperature", "a number above 0, in the range of float", settings.temperature);
    require(settings.top_k >= 0, "top_k", "a number of tokens, or 0 for all", settings.top_k);
    require(settings.top_p >= 0 && settings.top_p <= 1, "top_p", "a number from 0 to 1", settings.top_p);
    require(settings.min_p >= 0 && settings.min_p <= 1, "min_p", "a number from 0 to 1", settings.min_p);
    require(is_divisor(settings.repetition_penalty), "repetition_penalty", "a number above 0, in the range of float",
            settings.repetition_penalty);
  }

  /// The next token. `history` is the whole sequence so far, prompt included; ids beyond the logits (the image token) are passed
  /// over.
  /// Shapes:  logits (vocab)
  [[nodiscard]] std::int32_t operator()(std::span<const float> logits, std::span<const std::int32_t> history = {}) {
    if (!settings_.do_sample) {
      penalise(logits, history);
      return static_cast<std::int32_t>(std::max_element(scores_.begin(), scores_.end()) - scores_.begin());
    }
    const auto kept = candidates(logits, history);
    double sum = 0;
    for (const Candidate& c : kept) sum += weight(c);
    double left = uniform() * sum;
    for (const Candidate& c : kept) {
      left -= weight(c);
      if (left < 0) return c.id;
    }
    return kept.back().id;
  }

  /// How many of the largest logits decide: all others, but those that are nearly equal to the last of them, might as well be minus
  /// infinity. More than any vocabulary has if all of them do.
  [[nodiscard]] std::size_t candidates_needed() const noexcept {
    constexpr std::size_t all = std::numeric_limits<std::size_t>::max();
    if (settings_.repetition_penalty != 1) return all;  // which moves large ones below small ones
    if (!settings_.do_sample) return 1;
    // Scores far from 1 are rounded to infinity or zero, and become equal there.
    const bool is_mild = settings_.temperature >= 0x1p-20 && settings_.temperature <= 0x1p20;
    return settings_.top_k == 0 || !is_mild ? all : static_cast<std::size_t>(settings_.top_k);
  }

  /// The tokens that may be drawn and their scores, the most probable last; probabilities are the softmax of the scores.
  [[nodiscard]] std::span<const Candidate> candidates(std::span<const float> logits, std::span<const std::int32_t> history = {}) {
    penalise(logits, history);
    kept_.clear();
    const float temperature = static_cast<float>(settings_.temperature);
    for (std::size_t i = 0; i < scores_.size(); ++i) kept_.push_back({scores_[i] / temperature, static_cast<std::int32_t>(i)});
    if (const auto k = static_cast<std::size_t>(settings_.top_k); k != 0 && k < kept_.size()) {
      const auto border = kept_.begin() + static_cast<std::ptrdiff_t>(k) - 1;
      std::nth_element(kept_.begin(), border, kept_.end(),
                       [](const Candidate& a, const Candidate& b) { return a.score > b.score; });
      const float least = border->score;
      std::erase_if(kept_, [least](const Candidate& c) { return c.score < least; });
    }
    std::sort(kept_.begin(), kept_.end(),
              [](const Candidate& a, const Candidate& b) { return a.score != b.score ? a.score < b.score : a.id > b.id; });
    if (settings_.top_p < 1) drop_tail();
    if (settings_.min_p > 0) {
      std::erase_if(kept_, [this, most = kept_.back().score](const Candidate& c) {
        return std::exp(double{c.score} - double{most}) < settings_.min_p;
      });
    }
    return kept_;
  }

 private:
  /// Each distinct id of the history is penalised once, from its original score.
  void penalise(std::span<const float> logits, std::span<const std::int32_t> history) {
    check(!logits.empty(), [] { return Fault{.field = "logits", .expected = "at least one", .found = "none"}; });
    scores_.assign(logits.begin(), logits.end());
    // Broken weights make them, and they have no place in an order.
    for (float& score : scores_) {
      if (std::isnan(score)) score = -std::numeric_limits<float>::infinity();
    }
    if (settings_.repetition_penalty == 1) return;
    const float penalty = static_cast<float>(settings_.repetition_penalty);
    for (const std::int32_t id : history) {
      if (id < 0 || static_cast<std::size_t>(id) >= scores_.size()) continue;
      const float score = logits[static_cast<std::size_t>(id)];
      if (std::isnan(score)) continue;
      scores_[static_cast<std::size_t>(id)] = score < 0 ? score * penalty : score / penalty;
    }
  }

  /// Top-p: of the ascending probabilities, those whose running sum is at most 1 − p go; the largest always stays.
  void drop_tail() {
    double sum = 0, running = 0;
    for (const Candidate& c : kept_) sum += weight(c);
    std::size_t dropped = 0;
    for (; dropped + 1 < kept_.size(); ++dropped) {
      running += weight(kept_[dropped]) / sum;
      if (running > 1 - settings_.top_p) break;
    }
    kept_.erase(kept_.begin(), kept_.begin() + static_cast<std::ptrdiff_t>(dropped));
  }

  [[nodiscard]] double weight(const Candidate& c) const { return std::exp(double{c.score} - double{kept_.back().score}); }

  /// In [0, 1), by SplitMix64 (Steele, Lea, Flood 2014): a generator of our own, because the standard's distributions differ
  /// between libraries.
  double uniform() noexcept {
    std::uint64_t z = state_ += 0x9e3779b97f4a7c15U;
    z = (z ^ (z >> 30U)) * 0xbf58476d1ce4e5b9U;
    z = (z ^ (z >> 27U)) * 0x94d049bb133111ebU;
    return static_cast<double>((z ^ (z >> 31U)) >> 11U) * 0x1p-53;
  }

  SamplingSettings settings_;
  std::uint64_t state_;
  std::vector<float> scores_;
  std::vector<Candidate> kept_;
};
using Sampler = BasicSampler<>;
#if defined(MLLAMA_ELSEWHERE)
extern template class BasicSampler<>;
#endif

}  // namespace mllama
