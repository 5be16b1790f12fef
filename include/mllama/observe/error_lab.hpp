// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <iterator>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <mllama/core/check.hpp>
#include <mllama/core/context.hpp>
#include <mllama/generate/padded.hpp>
#include <mllama/generate/prompt_inputs.hpp>
#include <mllama/observe/recorder.hpp>

/// Where two runs of a model begin to differ, and by how much each module adds to it.

namespace mllama {

/// What a comparison found of one module: relative errors, ‖found − reference‖ / ‖reference‖ over all prompts.
struct ModuleError {
  std::string module;  ///< its key in a checkpoint; a branch of a layer is named by what follows its norm
  std::string tap;     ///< that shows what it makes
  double in = 0;       ///< of what the module is given, in a run of its own; of the text alone, where there are pictures too
  double made = 0;     ///< of what it makes from the reference's input: the error made here
  double out = 0;      ///< of what it makes, in a run of its own
};

/// How the next tokens of one prompt's answer differ, given the reference's own answer so far.
struct AnswerError {
  std::size_t tokens = 0;
  double divergence = 0;    ///< KL(reference ‖ found) in nats, the mean over the answer
  double largest = 0;       ///< the same, the largest
  std::size_t changed = 0;  ///< tokens that another one is more probable than
  std::size_t first = 0;    ///< the first of these
};

struct ErrorReport {
  std::vector<ModuleError> modules;  ///< in the order in which they are run
  std::vector<AnswerError> answers;  ///< one for each prompt

  /// The first module that makes, or whose result has, an error that is not at most `bound`.
  [[nodiscard]] const ModuleError* first_that_makes(double bound) const { return first(&ModuleError::made, bound); }
  [[nodiscard]] const ModuleError* first_that_has(double bound) const { return first(&ModuleError::out, bound); }

  /// Over the tokens of all answers.
  [[nodiscard]] AnswerError all_answers() const {
    AnswerError all;
    for (const AnswerError& answer : answers) {
      all.tokens += answer.tokens;
      all.divergence += answer.divergence * static_cast<double>(answer.tokens);
      all.largest = answer.largest <= all.largest ? all.largest : answer.largest;  // NaN is the largest
      all.changed += answer.changed;
    }
    if (all.tokens != 0) all.divergence /= static_cast<double>(all.tokens);
    return all;
  }
  [[nodiscard]] std::size_t changed_answers() const {
    return static_cast<std::size_t>(std::count_if(answers.begin(), answers.end(), [](const auto& a) { return a.changed != 0; }));
  }

  /// A line for each module, numbers below numbers.
  [[nodiscard]] std::string table() const {
    std::size_t width = 6;
    for (const ModuleError& of : modules) width = std::max(width, of.module.size());
    std::string text = line(width, "module", "error in", "made here", "error out");
    const auto number = [](double value) { return value == 0 ? std::string("0") : format("%.2e", value); };
    for (const ModuleError& of : modules) text += line(width, of.module, number(of.in), number(of.made), number(of.out));
    return text;
  }

  static std::string format(const char* pattern, double value) {
    std::array<char, 32> text{};
    std::snprintf(text.data(), text.size(), pattern, value);
    return text.data();
  }

 private:
  const ModuleError* first(double ModuleError::*error, double bound) const {
    const auto found = std::find_if(modules.begin(), modules.end(), [&](const ModuleError& of) { return !(of.*error <= bound); });
    return found == modules.end() ? nullptr : &*found;
  }
  static std::string line(std::size_t width, std::string text, const std::string& in, const std::string& made,
                          const std::string& out) {
    text.resize(width, ' ');
    for (const std::string& column : {in, made, out})
      text += std::string(11 - std::min<std::size_t>(column.size(), 10), ' ') + column;
    return text + '\n';
  }
};

/// The observer of a comparison: it keeps what every module of a reference makes, then watches another run of the same inputs twice.
/// The free run shows how errors grow. In the forced run each module is given what the reference's module was given, since what it
/// makes is measured and then overwritten by what the reference made: so it shows the error that each module makes alone.
/// Costs:  memory for all streams of one prompt: 4 bytes for each number that passes a tap of `watched`
class ErrorLab {
 public:
  enum class Pass { off, reference, free, forced };

  /// In the order in which they are passed.
  static constexpr std::array<std::string_view, 13> watched{"vision_states",
                                                            "vision_attended",
                                                            "transformer",
                                                            "layernorm_post",
                                                            "global_transformer",
                                                            "vision_output",
                                                            "cross_attention_states",
                                                            "k_norm",
                                                            "v_proj",
                                                            "hidden_states",
                                                            "attended",
                                                            "norm",
                                                            "logits"};

  static constexpr bool wants(std::string_view name) { return std::find(watched.begin(), watched.end(), name) != watched.end(); }
  [[nodiscard]] bool wants_now(std::string_view) const noexcept { return pass_ != Pass::off; }

  /// A new prompt. Of its next tokens, those of the last `answer` rows are compared, if the reference has logits.
  void begin_prompt(std::size_t answer) {
    given_.clear();
    for (Place& place : places_) place.reference.clear();
    answers_.emplace_back();
    answer_rows_ = answer;
  }
  /// What a reference that is not run makes: the tap by its name and index, as `hidden_states.3`, all rows one after the other.
  void give(std::string tap, std::vector<float> values) { given_.push_back({std::move(tap), std::move(values)}); }

  void begin(Pass pass) {
    pass_ = pass;
    next_ = 0;
    for (Place& place : places_) place.at = 0;
  }
  /// Errors:  input_error if the run showed less than the reference has.
  void end() {
    if (std::exchange(pass_, Pass::off) == Pass::reference) return;
    for (const Place& place : places_) check_size(place, place.at, place.at == place.reference.size());
    for (const Place& place : given_) check_size(place, 0, false);
  }

  template <class V>
  void replace(const Tap& tap, const V& view) {
    Place* const place = find(name_of(tap));
    if (place == nullptr) return;
    const std::span<float> values = view.flat();
    if (pass_ == Pass::reference) {
      place->reference.insert(place->reference.end(), values.begin(), values.end());
      return;
    }
    check_size(*place, place->at + values.size(), values.size() <= place->reference.size() - place->at);
    const std::span<const float> reference = std::span(place->reference).subspan(place->at, values.size());
    place->at += values.size();
    double squares = 0, errors = 0;
    for (std::size_t i = 0; i < values.size(); ++i) {
      const double expected{reference[i]}, error = double{values[i]} - expected;
      squares += expected * expected;
      errors += error * error;
    }
    if (pass_ == Pass::free) {
      place->squares += squares;
      place->out += errors;
      if (tap.name == "logits") compare_tokens(reference, values, view.length(V::rank - 1));
    } else {
      place->made += errors;
      std::copy(reference.begin(), reference.end(), values.begin());
    }
  }

  /// What was found so far, with the names of a model's modules.
  template <class Model>
  [[nodiscard]] ErrorReport report() const;

 private:
  struct Place {
    std::string tap;
    std::vector<float> reference = {};
    std::size_t at = 0;                     ///< what the run has shown of it
    double squares = 0, made = 0, out = 0;  ///< sums of squares: of the reference, of errors
  };

  /// The place of a tap, which is most often the one behind the last. A new one comes behind that, too, so that places are in the order
  /// in which they are passed, whatever prompts come first.
  Place* find(const std::string& tap) {
    for (std::size_t i = 0; i < places_.size(); ++i) {
      const std::size_t at = (next_ + i) % places_.size();
      if (places_[at].tap != tap) continue;
      next_ = at + 1;
      return take_given(places_[at]);
    }
    const bool is_given = std::any_of(given_.begin(), given_.end(), [&](const Place& place) { return place.tap == tap; });
    if (pass_ != Pass::reference && !is_given) return nullptr;
    const auto place = places_.insert(places_.begin() + static_cast<std::ptrdiff_t>(next_), Place{tap});
    ++next_;
    return take_given(*place);
  }
  Place* take_given(Place& place) {
    const auto given = std::find_if(given_.begin(), given_.end(), [&](const Place& one) { return one.tap == place.tap; });
    if (given != given_.end()) {
      place.reference = std::move(given->reference);
      given_.erase(given);
    }
    return place.reference.empty() && pass_ != Pass::reference ? nullptr : &place;
  }

  static void check_size(const Place& place, std::size_t shown, bool fits) {
    check(fits, [&] {
      return Fault{.field = place.tap,
                   .expected = concat(place.reference.size(), " numbers, as the reference has"),
                   .found = shown == 0 ? std::string("none") : concat(shown)};
    });
  }

  void compare_tokens(std::span<const float> reference, std::span<const float> found, std::size_t vocab) {
    AnswerError& answer = answers_.back();
    const std::size_t rows = found.size() / vocab;
    check(answer_rows_ <= rows,
          [&] { return Fault{.field = "answer", .expected = concat("at most ", rows, " tokens"), .found = concat(answer_rows_)}; });
    answer.tokens = answer_rows_;
    for (std::size_t token = 0; token < answer.tokens; ++token) {
      const std::size_t row = rows - answer.tokens + token;
      const auto p = reference.subspan(row * vocab, vocab), q = found.subspan(row * vocab, vocab);
      const double p_total = log_total(p), q_total = log_total(q);
      double divergence = 0;
      for (std::size_t i = 0; i < vocab; ++i) {
        const double log_p = double{p[i]} - p_total, log_q = double{q[i]} - q_total;
        divergence += std::exp(log_p) * (log_p - log_q);
      }
      divergence = divergence < 0 ? 0 : divergence;  // the rest of a rounded sum
      answer.divergence += divergence / static_cast<double>(answer.tokens);
      if (!(divergence <= answer.largest)) answer.largest = divergence;
      const bool same = std::max_element(p.begin(), p.end()) - p.begin() == std::max_element(q.begin(), q.end()) - q.begin();
      if (!same && answer.changed++ == 0) answer.first = token;
    }
  }
  /// The logarithm of the sum of exponentials.
  static double log_total(std::span<const float> logits) {
    const double most{*std::max_element(logits.begin(), logits.end())};
    double total = 0;
    for (const float logit : logits) total += std::exp(double{logit} - most);
    return most + std::log(total);
  }

  static double relative(double errors, double squares) { return errors == 0 ? 0 : std::sqrt(errors / squares); }

  Pass pass_ = Pass::off;
  std::size_t next_ = 0, answer_rows_ = 0;
  std::vector<Place> places_, given_;
  std::vector<AnswerError> answers_;
};

namespace detail {

/// The module that makes what a tap shows, from what the tap before it showed.
template <class Model>
[[nodiscard]] std::string module_before(std::string_view tap) {
  using Vision = typename Model::Vision;
  using Text = typename Model::Text;
  constexpr std::size_t local = static_cast<std::size_t>(Vision::layers),
                        all = local + static_cast<std::size_t>(Vision::global_layers);
  constexpr bool has_branches = requires(typename Model::VisionPart vision) { vision.transformer; };  // else it is SigLIP
  const std::size_t point = tap.rfind('.');
  const std::string_view name = tap.substr(0, point);
  std::size_t index = 0;
  if (point != tap.npos) {
    for (const char digit : tap.substr(point + 1)) index = 10 * index + static_cast<std::size_t>(digit - '0');
  }
  const auto vision_layer = [](std::size_t i) {
    if (!has_branches) return concat("vision_model.encoder.layers.", i);
    return i < local ? concat("vision_model.transformer.layers.", i) : concat("vision_model.global_transformer.layers.", i - local);
  };
  const std::string post = "vision_model.post_tile_positional_embedding";
  if (name == "vision_states") {
    if (index == 0) return has_branches ? "vision_model.layernorm_pre" : "vision_model.embeddings";
    if (!has_branches) return vision_layer(index - 1);
    return index == local ? post : vision_layer(index - 1) + ".mlp";
  }
  if (name == "vision_attended") return vision_layer(index) + ".self_attn";
  if (name == "transformer") return vision_layer(local - 1) + ".mlp";
  if (name == "global_transformer") return all == local ? post : vision_layer(all - 1) + ".mlp";
  if (name == "layernorm_post") return "vision_model.layernorm_post";
  if (name == "vision_output") return has_branches ? "vision_model" : "vision_model.post_layernorm";
  if (name == "cross_attention_states") return "multi_modal_projector";
  if (name == "norm") return "language_model.model.norm";
  if (name == "logits") return "language_model.lm_head";
  if (name == "hidden_states" && index == 0) return "language_model.model.embed_tokens";
  const auto text_layer = [](std::size_t i) { return concat("language_model.model.layers.", i); };
  if (name == "hidden_states") return text_layer(index - 1) + ".mlp";
  if (name == "attended") {
    const bool cross = std::find(Text::cross.begin(), Text::cross.end(), static_cast<int>(index)) != Text::cross.end();
    return text_layer(index) + (cross ? ".cross_attn" : ".self_attn");
  }
  return concat(text_layer(index), ".cross_attn.", name);
}

}  // namespace detail

template <class Model>
ErrorReport ErrorLab::report() const {
  ErrorReport report{{}, answers_};
  double before = 0, of_pictures = 0;  // errors of what the next module is given
  for (const Place& place : places_) {
    const std::string_view name = std::string_view(place.tap).substr(0, place.tap.find('.'));
    const bool is_first = place.tap == "vision_states.0" || place.tap == "hidden_states.0";
    const double in = is_first ? 0 : name == "k_norm" || name == "v_proj" ? of_pictures : before;
    before = relative(place.out, place.squares);
    if (name == "cross_attention_states") of_pictures = before;
    report.modules.push_back({detail::module_before<Model>(place.tap), place.tap, in, relative(place.made, place.squares), before});
  }
  return report;
}

/// A model, and how it is to be run.
template <class Model>
struct LabSide {
  const Model* model = nullptr;
  Numerics numerics = Model::numerics;
  Precision precision = Precision::f32;  ///< where the back end leaves it to the context
  KeyFormat key_format = KeyFormat::f32;

  template <class Ctx>
  [[nodiscard]] PaddedRun<Model> run(Ctx& ctx) const {
    if constexpr (requires { ctx.precision(precision); }) ctx.precision(precision);
    ctx.key_format(key_format);
    return PaddedRun<Model>(*model, numerics);
  }
};

/// The most probable token, again and again, up to an end token or `most` tokens.
template <class Model, class Ctx>
[[nodiscard]] std::vector<std::int64_t> greedy_answer(const LabSide<Model>& side, const PaddedInputs& inputs, std::size_t most,
                                                      std::span<const std::int32_t> eos, Ctx& ctx) {
  PaddedRun<Model> run = side.run(ctx);
  std::vector<std::int64_t> answer;
  for (auto logits = run.prompt(inputs, ctx);; logits = run.step(std::span(answer).last(1), ctx)) {
    const auto last = logits.flat().last(Model::Text::vocab);
    answer.push_back(std::max_element(last.begin(), last.end()) - last.begin());
    if (answer.size() >= most || std::find(eos.begin(), eos.end(), answer.back()) != eos.end()) return answer;
  }
}

/// Runs one side, free and forced, on the inputs of a reference that `lab`, the observer of `ctx`, has been given.
/// Errors:  input_error if the reference has other sizes.
template <class Model, class Ctx>
void compare_with_reference(const LabSide<Model>& side, const PaddedInputs& inputs, ErrorLab& lab, Ctx& ctx) {
  for (const ErrorLab::Pass pass : {ErrorLab::Pass::free, ErrorLab::Pass::forced}) {
    PaddedRun<Model> run = side.run(ctx);
    lab.begin(pass);
    static_cast<void>(run.prompt(inputs, ctx));
    lab.end();
  }
}

/// Compares two sides on one prompt and on the answer of up to `most` tokens that the first one gives; `lab` is the observer of `ctx`.
/// Returns:  the answer
/// Costs:    three runs of the prompt with its answer, and the answer
template <class Model, class Ctx>
std::vector<std::int64_t> compare_sides(const LabSide<Model>& reference, const LabSide<Model>& other, PromptInputs inputs,
                                        std::size_t most, std::span<const std::int32_t> eos, ErrorLab& lab, Ctx& ctx) {
  std::vector<std::int64_t> answer = greedy_answer(reference, inputs.padded(), most, eos, ctx);
  for (const std::int64_t id : std::span(answer).first(answer.size() - 1)) inputs.append(id);
  lab.begin_prompt(answer.size());
  PaddedRun<Model> run = reference.run(ctx);
  lab.begin(ErrorLab::Pass::reference);
  static_cast<void>(run.prompt(inputs.padded(), ctx));
  lab.end();
  compare_with_reference(other, inputs.padded(), lab, ctx);
  return answer;
}

}  // namespace mllama
