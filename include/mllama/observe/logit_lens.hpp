// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <mllama/core/check.hpp>
#include <mllama/core/context.hpp>
#include <mllama/core/unicode.hpp>
#include <mllama/models/mllama/text.hpp>

namespace mllama {

/// An observer that asks the head after every layer, as if it were the last: what would the next token be? Of each forward pass it
/// looks at the last row, which chooses the next token. Refers to the language model.
/// Source:  nostalgebraist 2020, "interpreting GPT: the logit lens"
/// Costs:   the final norm and the head for layers + 1 rows each pass
template <class C>
class LogitLens {
 public:
  static constexpr std::size_t states = static_cast<std::size_t>(C::layers) + 1;  ///< of a pass: before the layers, and after each

  /// The most probable next token.
  struct Guess {
    std::int32_t id = 0;
    float probability = 0;
  };
  using Pass = std::array<Guess, states>;

  /// One that is not `on` looks at nothing.
  explicit LogitLens(const CausalLM<C>& model, bool on = true) : model_(&model), on_(on) {}

  static constexpr bool wants(std::string_view name) { return name == "hidden_states" || name == "norm"; }
  [[nodiscard]] bool wants_now(std::string_view) const noexcept { return on_; }

  template <class Ctx>
  void operator()(const Tap& tap, View<const float, Tokens, Dim<C::hidden>> rows, Ctx& ctx) {
    if (tap.name == "norm") return ask(ctx);
    if (tap.index == 0) seen_ = 0;
    if (rows.rows() == 0 || tap.index >= states) return;
    // A layer that is not run, as those that attend to pictures where there is none, changes nothing and shows nothing.
    while (seen_ != 0 && seen_ < tap.index) keep(last_rows_.view()[seen_ - 1]);
    keep(rows[rows.rows() - 1]);
  }

  /// One for each forward pass, so for each new token.
  [[nodiscard]] const std::vector<Pass>& passes() const noexcept { return passes_; }
  void clear() noexcept { passes_.clear(); }

  /// A column for each pass and a line for each layer, with the token and its probability in percent. `text_of(id)` is a token's text;
  /// columns are put below the first ones where a line would be longer than `width`.
  template <class TextOf>
  [[nodiscard]] std::string table(TextOf&& text_of, std::size_t width = 120) const {
    constexpr std::size_t label = 8;
    std::string text;
    for (std::size_t begin = 0; begin < passes_.size();) {
      std::vector<std::vector<std::string>> columns;
      std::size_t line = label;
      for (std::size_t p = begin; p < passes_.size(); ++p) {
        std::vector<std::string> column;
        for (const Guess& guess : passes_[p]) column.push_back(cell(text_of(guess.id), guess.probability));
        const std::size_t widest = pad(column);
        if (line + widest > width && !columns.empty()) break;
        line += widest;
        columns.push_back(std::move(column));
      }
      if (begin != 0) text += '\n';
      for (std::size_t i = 0; i < states; ++i) {
        std::string name = i == 0 ? "embed" : concat("layer ", i - 1);
        name.resize(std::max(label, name.size()), ' ');
        for (const auto& column : columns) name += column[i];
        while (name.ends_with(' ')) name.pop_back();
        text += name + '\n';
      }
      begin += columns.size();
    }
    return text;
  }

 private:
  void keep(std::span<const float> row) { std::copy(row.begin(), row.end(), last_rows_.view()[seen_++].begin()); }

  /// The model asks its head: the pass is complete.
  template <class Ctx>
  void ask(Ctx& ctx) {
    if (seen_ == 0) return;
    while (seen_ < states) keep(last_rows_.view()[seen_ - 1]);
    const auto logits = model_->logits(last_rows_, ctx);
    Pass& pass = passes_.emplace_back();
    for (std::size_t i = 0; i < states; ++i) pass[i] = guess(logits[i]);
    seen_ = 0;
  }

  static Guess guess(std::span<const float> logits) {
    const auto most = std::max_element(logits.begin(), logits.end());
    double total = 0;
    for (const float logit : logits) total += std::exp(double{logit} - double{*most});
    return {static_cast<std::int32_t>(most - logits.begin()), static_cast<float>(1 / total)};
  }

  /// ` red 97 %`, in quotes because spaces count, without line breaks.
  static std::string cell(std::string_view token, float probability) {
    std::string text = "  '";
    for (std::size_t at = 0; at < token.size();) {
      const CodePoint next = code_point_at(token, at);
      if (next.kind == CodePoint::Kind::cut) break;
      at += next.length;
      if (next.value == '\n') {
        text += "\\n";
      } else if (next.value >= ' ' && next.value != 0x7f) {
        append_utf8(text, next.value);
      } else {
        text += '?';
      }
    }
    std::array<char, 16> percent{};
    std::snprintf(percent.data(), percent.size(), "' %.0f", 100 * double{probability});
    return text + percent.data();
  }
  static std::size_t characters(std::string_view text) {
    return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), [](char c) { return (c & '\xc0') != '\x80'; }));
  }
  static std::size_t pad(std::vector<std::string>& column) {
    std::size_t widest = 0;
    for (const std::string& text : column) widest = std::max(widest, characters(text));
    for (std::string& text : column) text.append(widest - characters(text), ' ');
    return widest;
  }

  const CausalLM<C>* model_;
  bool on_;
  Tensor<float, Tokens, Dim<C::hidden>> last_rows_{typename Tensor<float, Tokens, Dim<C::hidden>>::Lengths{states}};
  std::size_t seen_ = 0;
  std::vector<Pass> passes_;
};

}  // namespace mllama
