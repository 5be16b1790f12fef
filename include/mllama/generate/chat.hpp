// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <ctime>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <mllama/core/check.hpp>
#include <mllama/core/context.hpp>
#include <mllama/generate/pretrained.hpp>
#include <mllama/generate/sampler.hpp>
#include <mllama/generate/session.hpp>
#include <mllama/text/chat_template.hpp>
#include <mllama/text/prompt.hpp>
#include <mllama/text/tokenizer.hpp>

namespace mllama {

/// How a folder's generation_config.json wants tokens to be chosen.
[[nodiscard]] inline SamplingSettings sampling_settings(const GenerationSettings& file) {
  return {.do_sample = file.do_sample,
          .temperature = file.temperature > 0 ? file.temperature : 1,
          .top_k = file.top_k,
          .top_p = file.top_p,
          .min_p = file.min_p,
          .repetition_penalty = file.repetition_penalty};
}

/// Settings of a conversation; what is not set comes from the folder's generation_config.json.
struct ChatSettings {
  std::optional<SamplingSettings> sampling = {};
  std::optional<std::size_t> max_new_tokens = {};
  std::uint64_t seed = 0;
  std::string date = {};                  ///< for templates that tell the model the date; today if empty
  std::optional<Numerics> numerics = {};  ///< else the model type's
  bool screen = false;                    ///< compute logits in two stages: see ScreenedHead
};

/// Where the time of a conversation went, in seconds, and the tokens it went for.
struct ChatTimings {
  double encode = 0, prompt = 0, decode = 0;
  std::size_t pictures = 0, prompt_tokens = 0, decoded_tokens = 0;
};

/// A conversation about pictures:
///
///     Chat chat{model, ctx};
///     chat.user(read_image("photo.jpg"), "What is in this picture?");
///     chat.answer([](std::string_view piece) { std::cout << piece << std::flush; });
///
/// A picture is encoded once; a later question about it does no vision work. Each turn's prompt is rendered from the whole
/// conversation, like transformers does it, and what the cache already holds of it is not run again.
/// Refers to model and context, which must outlive it.
template <class Model, class Ctx>
class Chat {
 public:
  using Picture = mllama::Picture<Model>;

  /// Errors:  file_error if the folder has no tokenizer.
  Chat(const Pretrained<Model>& pretrained, Ctx& ctx, ChatSettings settings = {})
      : pretrained_(&pretrained),
        settings_(std::move(settings)),
        numerics_(settings_.numerics.value_or(Model::numerics)),
        session_(pretrained.model(), ctx, numerics_),
        sampler_(settings_.sampling.value_or(sampling_settings(pretrained.generation)), settings_.seed) {
    static_cast<void>(pretrained.require(pretrained.tokenizer, "tokenizer.json"));
    if (!settings_.screen) return;
    head_ = std::make_unique<Head>(pretrained.model().language_model.lm_head, ctx);
    session_.screen(head_.get());
  }

  void system(std::string text) { messages_.push_back({"system", std::move(text)}); }
  /// Errors:  input_error if the text spells an image token: pictures are given as such.
  void user(std::string text) { messages_.push_back({"user", without_images(std::move(text))}); }
  void user(const Image& image, std::string text) { user(std::span(&image, 1), std::move(text)); }
  /// Several pictures, then text.
  void user(std::span<const Image> images, std::string text) {
    const auto start = now();
    std::vector<Picture> pictures;
    for (const Image& image : images) pictures.push_back(pretrained_->encode(image, session_.context(), numerics_));
    timings_.encode += seconds_since(start);
    timings_.pictures += pictures.size();
    user(std::move(pictures), std::move(text));
  }
  /// Pictures that are encoded already.
  void user(std::vector<Picture> pictures, std::string text) {
    std::vector<ContentPart> parts(pictures.size(), ImagePart{});
    parts.emplace_back(without_images(std::move(text)));
    messages_.push_back({"user", std::move(parts)});
    for (Picture& picture : pictures) pictures_.push_back(std::move(picture));
  }

  /// Generates the assistant's turn. `on_text(piece)` is called with each piece of text as soon as it is whole code points; if it
  /// returns a bool, false ends the answer.
  /// Returns:  the whole text of the answer
  /// Errors:   input_error if the prompt is too long for the model, or its image tokens are not as many as its pictures.
  template <std::invocable<std::string_view> OnText>
  std::string answer(OnText&& on_text) {
    const Tokenizer& tokenizer = *pretrained_->tokenizer;
    const std::vector<std::int32_t> prompt = prompt_ids();
    // The last token of the prompt is always run, so that there are logits to start from.
    const std::span<const std::int32_t> done = session_.ids();
    std::size_t common = 0;
    while (common < done.size() && common + 1 < prompt.size() && done[common] == prompt[common]) ++common;
    session_.truncate(common);

    std::string answer;
    TextStream stream(tokenizer);
    const auto emit = [&](std::string_view piece) {
      if (piece.empty()) return true;
      answer += piece;
      if constexpr (std::convertible_to<std::invoke_result_t<OnText&, std::string_view>, bool>) {
        return static_cast<bool>(on_text(piece));
      } else {
        on_text(piece);
        return true;
      }
    };
    const auto start = now();
    double prompt_seconds = 0;
    std::size_t tokens = 0;
    bool wanted = true;
    const auto on_token = [&](std::int32_t id) {
      if (tokens++ == 0) prompt_seconds = seconds_since(start);
      return wanted = emit(stream.push(id));
    };
    const StopRules stop{pretrained_->generation.eos, new_token_limit(prompt.size())};
    const std::span rest = std::span(prompt).subspan(common);
    generate(session_, rest, new_pictures(rest), sampler_, stop, on_token);
    if (wanted) emit(stream.finish());
    timings_.prompt += prompt_seconds;
    timings_.decode += seconds_since(start) - prompt_seconds;
    timings_.prompt_tokens += rest.size();
    timings_.decoded_tokens += tokens == 0 ? 0 : tokens - 1;  // the first one comes with the prompt
    messages_.push_back({"assistant", answer});
    return answer;
  }
  std::string answer() {
    return answer([](std::string_view) {});
  }

  [[nodiscard]] std::span<const Message> messages() const noexcept { return messages_; }
  [[nodiscard]] const ChatTimings& timings() const noexcept { return timings_; }

 private:
  static std::string without_images(std::string text) {
    const std::size_t count = count_images(text);
    check(count == 0, [count] {
      return Fault{.field = "images", .expected = concat(count, " more, for the image tokens of the text"), .found = "none"};
    });
    return text;
  }

  /// Seconds of a clock that nobody sets. <chrono> would bring calendars and streams.
  static double now() noexcept {
    std::timespec time{};
    ::clock_gettime(CLOCK_MONOTONIC, &time);
    return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
  }
  static double seconds_since(double start) noexcept { return now() - start; }

  [[nodiscard]] std::vector<std::int32_t> prompt_ids() const {
    const ChatOptions options{.chat_template = pretrained_->chat_template.value_or(ChatTemplate::plain), .date = settings_.date};
    std::vector<std::int32_t> ids = pretrained_->tokenizer->encode(render_chat(messages_, options));
    const auto most = static_cast<std::size_t>(pretrained_->sizes.text.max_positions);
    check(ids.size() < most, [&] {
      return Fault{.field = "prompt", .expected = concat("fewer than ", most, " tokens"), .found = concat(ids.size())};
    });
    const auto images = static_cast<std::size_t>(std::count(ids.begin(), ids.end(), Model::Text::image_token));
    check(images == pictures_.size(), [&] {
      return Fault{
          .field = "prompt", .expected = concat(pictures_.size(), " image tokens, one for each picture"), .found = concat(images)};
    });
    return ids;
  }

  /// Pictures of the image tokens of the prompt's last part, which is run now.
  [[nodiscard]] std::span<const Picture> new_pictures(std::span<const std::int32_t> rest) const {
    const auto count = static_cast<std::size_t>(std::count(rest.begin(), rest.end(), Model::Text::image_token));
    return std::span(pictures_).last(count);
  }

  /// Errors:  none; what does not fit the model's positions is cut.
  [[nodiscard]] std::size_t new_token_limit(std::size_t prompt) const {
    const GenerationSettings& file = pretrained_->generation;
    std::size_t limit = 20;  // transformers' default
    if (settings_.max_new_tokens) {
      limit = *settings_.max_new_tokens;
    } else if (file.max_new_tokens) {
      limit = static_cast<std::size_t>(*file.max_new_tokens);
    } else if (file.max_length) {
      const auto most = static_cast<std::size_t>(*file.max_length);
      limit = most > prompt ? most - prompt : 0;
    }
    return std::min(limit, static_cast<std::size_t>(pretrained_->sizes.text.max_positions) - prompt);
  }

  using Head = ScreenedLogits<typename Model::Text>;

  const Pretrained<Model>* pretrained_;
  ChatSettings settings_;
  Numerics numerics_;
  Session<Model, Ctx> session_;
  std::unique_ptr<const Head> head_;
  Sampler sampler_;
  std::vector<Message> messages_;
  std::vector<Picture> pictures_;
  ChatTimings timings_;
};

}  // namespace mllama
