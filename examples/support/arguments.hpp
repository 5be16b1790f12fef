// SPDX-License-Identifier: MIT
#pragma once

#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <utility>
#include <vector>

#include <CLI/CLI.hpp>

#include <mllama/core/check.hpp>
#include <mllama/generate/chat.hpp>
#include <mllama/generate/sampler.hpp>
#include <mllama/io/config.hpp>
#include <mllama/io/mapped_file.hpp>
#include <mllama/models/mllama/plan.hpp>

#include "command_line.hpp"

namespace support {

/// The folder of Pocket, the small model that comes with the programs: where it was when they were built or, if the project has
/// been moved since, where it lies from the program in build/<preset>/bin.
inline std::string pocket_folder() {
  std::string folder = MLLAMA_POCKET;
  if (mllama::detail::exists(folder)) return folder;
  char program[4096];
  const auto length = ::readlink("/proc/self/exe", program, sizeof program);
  std::string_view path(program, length > 0 ? static_cast<std::size_t>(length) : 0);
  for (int up = 0; up < 4; ++up) path = path.substr(0, path.rfind('/'));
  std::string moved = mllama::concat(path, "/examples/pocket");
  return mllama::detail::exists(moved) ? moved : folder;
}

/// What the user of `describe` wants.
struct Arguments {
  static constexpr std::string_view question = "What is in the picture?";

  std::string model;                  ///< folder
  std::vector<std::string> adapters;  ///< DIR or DIR=SCALE
  std::vector<std::string> pictures;  ///< files
  std::string prompt;                 ///< empty: the first question comes from stdin
  std::string system, profile = "meta", precision = "int16", kv = "f32", max_memory;
  bool chat = false, greedy = false, no_picture = false, quiet = false, screen = false;
  std::optional<double> temperature, top_p, min_p, repetition_penalty;
  std::optional<int> top_k;
  std::optional<std::size_t> max_new_tokens;
  std::uint64_t seed = 0;
  unsigned threads = 0;

  /// The model's own settings, changed as the user wants. Whoever sets a temperature or a selection wants to sample.
  [[nodiscard]] mllama::ChatSettings settings(const mllama::GenerationSettings& of_model) const {
    mllama::SamplingSettings sampling = mllama::sampling_settings(of_model);
    if (temperature || top_k || top_p || min_p) sampling.do_sample = true;
    if (greedy) sampling.do_sample = false;
    sampling.temperature = temperature.value_or(sampling.temperature);
    sampling.top_k = top_k.value_or(sampling.top_k);
    sampling.top_p = top_p.value_or(sampling.top_p);
    sampling.min_p = min_p.value_or(sampling.min_p);
    sampling.repetition_penalty = repetition_penalty.value_or(sampling.repetition_penalty);
    return {.sampling = sampling,
            .max_new_tokens = max_new_tokens,
            .seed = seed,
            .date = {},
            .numerics = numerics_of(profile),
            .screen = screen};
  }

  /// What a first answer takes, before there is a tokenizer: no token is shorter than a byte, and the template adds some.
  [[nodiscard]] mllama::Workload work() const {
    constexpr std::size_t of_template = 64, unless_said = 128, reserved = 1024;
    return {.tokens = of_template + system.size() + prompt.size() + pictures.size(),
            .images = pictures.size(),
            .new_tokens = std::min(max_new_tokens.value_or(unless_said), reserved)};
  }

  /// Free words are `[FILE…] PROMPT`, so that `--image a.png b.png "Which is larger?"` means what it says. What is not given is
  /// Pocket, its sample picture, and a question about it.
  void complete(std::vector<std::string> words) {
    if (!words.empty()) {
      prompt = std::move(words.back());
      words.pop_back();
      std::ranges::move(words, std::back_inserter(pictures));
    }
    mllama::check(prompt.empty() || !mllama::detail::exists(prompt), [&] {
      return mllama::Fault{.field = "PROMPT",
                           .expected = "a question",
                           .found = mllama::concat("the file ", prompt),
                           .note = "pictures follow --image"};
    });
    if (model.empty()) {
      model = pocket_folder() + "/model-nf4";
      if (pictures.empty()) pictures.push_back(pocket_folder() + "/pictures/shapes.png");
    }
    if (!prompt.empty() || chat) return;
    mllama::check(!pictures.empty(), [] {
      return mllama::Fault{.field = "PROMPT", .expected = "a question, since there is no picture", .found = "none"};
    });
    prompt = question;
  }
};

/// The parts of --help that CLI11 does not write as we want them.
struct HelpFormat : CLI::Formatter {
  std::string make_usage(const CLI::App*, std::string) const override {
    return "\n"
           "usage: describe [OPTION...] [PROMPT]\n"
           "       describe --model DIR --image FILE [--image FILE...] PROMPT\n"
           "       describe --chat [--image FILE...]\n\n";
  }
  std::string make_positionals(const CLI::App*) const override { return {}; }
  std::string make_group(std::string group, bool, std::vector<const CLI::Option*> options) const override {
    std::string text = group + ":\n";
    for (const CLI::Option* option : options) text += make_option(option, false);
    return text;
  }
  std::string make_option_opts(const CLI::Option* option) const override {
    return option->get_type_size() == 0 ? "" : " " + option->get_type_name();
  }
};

/// What CLI11's own checks say about numbers is hard to read, and its conversions let some wrong ones pass.
template <class Number>
CLI::Validator number(std::string expected, Number least = std::numeric_limits<Number>::lowest(),
                      Number most = std::numeric_limits<Number>::max()) {
  return CLI::Validator(
      [=](const std::string& text) -> std::string {
        Number value{};
        const char* const end = text.data() + text.size();
        const auto [stop, status] = std::from_chars(text.data(), end, value);
        const bool outside = value < least || value > most;
        return status == std::errc{} && stop == end && !outside ? "" : mllama::concat("expected ", expected, ", found ", text);
      },
      "");
}

/// Makes `app` read into `arguments`; `words` are the free ones, to be given to `complete`.
inline void declare(CLI::App& app, Arguments& arguments, std::vector<std::string>& words) {
  const auto format = std::make_shared<HelpFormat>();
  format->column_width(34);
  app.formatter(format);
  app.footer(
      "Without --model it is Pocket, a small model that knows coloured shapes, and without --image\n"
      "the sample picture that comes with it. In a chat, a line `/image FILE` shows a picture to the\n"
      "next question, and `/quit` ends it. The answer goes to stdout, everything else to stderr.");
  app.add_option("PROMPT", words, "what to ask about the picture")->type_name("");

  const std::string model = "Model and question", sampling = "Sampling, by default as the model's generation_config.json says",
                    output = "Running and showing";
  app.add_option("-m,--model", arguments.model, "folder as Hugging Face saves it")->type_name("DIR")->group(model);
  app.add_option("--adapter", arguments.adapters, "LoRA adapter as PEFT saves it; may be repeated")
      ->type_name("DIR[=SCALE]")
      ->allow_extra_args(false)
      ->group(model);
  app.add_option("-i,--image", arguments.pictures, "picture, PNG, JPEG, PGM or PPM; may be repeated")
      ->type_name("FILE")
      ->allow_extra_args(false)
      ->group(model);
  app.add_flag("-c,--chat", arguments.chat, "go on with questions from stdin, a line each")->group(model);
  app.add_option("--system", arguments.system, "what the model is told before the conversation")->type_name("TEXT")->group(model);

  CLI::Option* const greedy = app.add_flag("--greedy", arguments.greedy, "always the most probable token")->group(sampling);
  const auto sample = [&](const std::string& name, auto& value, const std::string& what, const std::string& type) {
    using Number = typename std::remove_reference_t<decltype(value)>::value_type;
    const auto check = number<Number>(std::integral<Number> ? "a whole number" : "a number");
    app.add_option(name, value, what)->type_name(type)->check(check)->group(sampling)->excludes(greedy);
  };
  sample("--temperature", arguments.temperature, "above 0; the higher, the more daring", "X");
  sample("--top-k", arguments.top_k, "only the N most probable tokens; 0: all", "N");
  sample("--top-p", arguments.top_p, "only the most probable tokens that make up P together", "P");
  sample("--min-p", arguments.min_p, "only tokens at least P times as probable as the first", "P");
  app.add_option("--repetition-penalty", arguments.repetition_penalty, "above 1: less of what was said already")
      ->type_name("X")
      ->check(number<double>("a number"))
      ->group(sampling);
  app.add_option("--seed", arguments.seed, "another number, another answer; default 0")
      ->type_name("N")
      ->check(number<std::uint64_t>("a whole number from 0 on"))
      ->group(sampling);
  app.add_option("-n,--max-new-tokens", arguments.max_new_tokens, "end the answer after N tokens")
      ->type_name("N")
      ->check(number<std::size_t>("a whole number from 1 on", 1))
      ->group(sampling);

  app.add_option("-t,--threads", arguments.threads, "threads to use; default: all of the machine")
      ->type_name("N")
      ->check(number<unsigned>("a whole number from 1 to 1024", 1, 1024))
      ->group(output);
  app.add_option("--profile", arguments.profile, "numerics: meta (default), transformers_4_45, _4_55, _4_56 or meta_rows")
      ->type_name("P")
      ->group(output);
  app.add_option("--precision", arguments.precision,
                 "of matrix products: f32 (exact), int16 (default: nearly so, faster), bf16 or int8 (fastest); float weights only "
                 "in f32 or bf16")
      ->type_name("P")
      ->group(output);
  app.add_option("--kv", arguments.kv, "how keys and values are kept: f32 (default), bf16, f16 or int8, for less memory")
      ->type_name("F")
      ->group(output);
  app.add_option("--max-memory", arguments.max_memory,
                 "refuse a model that needs more, as 8G; default: what is available; any: go on whatever it needs")
      ->type_name("BYTES")
      ->group(output);
  app.add_flag("--screen", arguments.screen, "greedy and top-k answers sooner, the same ones, for more memory")->group(output);
  app.add_flag("--no-picture", arguments.no_picture, "do not draw pictures in the terminal")->group(output);
  app.add_flag("-q,--quiet", arguments.quiet, "nothing but the answer: no picture, progress or timings")->group(output);
  app.set_help_flag("-h,--help", "print this and exit")->group(output);
}

}  // namespace support
