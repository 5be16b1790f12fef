// SPDX-License-Identifier: MIT
// synthesize: writes a checkpoint of made-up weights for a model type, to see at full size what the model costs.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>

#include <CLI/CLI.hpp>

#include <mllama/generate/pretrained.hpp>
#include <mllama/generate/synthesize.hpp>

#include "models.hpp"
#include "support/command_line.hpp"
#include "support/progress.hpp"
#include "support/summary.hpp"
#include "support/terminal.hpp"

namespace {

using Choices = mllama::JoinModels<mllama::models::ModelList, mllama::ReleasedModels>;

struct Arguments {
  std::string model, out, format = "nf4";
  bool plain = false, nested = false;
  std::uint64_t seed = 0;
  unsigned threads = 0;

  [[nodiscard]] mllama::SynthesisSettings settings() const {
    mllama::SynthesisSettings settings{.nested = !plain, .seed = seed, .threads = threads};
    if (format == "fp4") settings.storage = mllama::LinearStorage::fp4;
    if (format == "int8") settings.storage = mllama::LinearStorage::int8;
    if (format == "bf16") settings.storage = mllama::LinearStorage::bf16;
    mllama::check((!plain && !nested) || format == "nf4" || format == "fp4", [&] {
      return mllama::Fault{
          .field = plain ? "--plain" : "--nested", .expected = "nf4 or fp4, which have scales per block", .found = format};
    });
    return settings;
  }
};

/// The sizes of the model type of this name, or those in a file.
template <class... Models>
mllama::ModelSizes sizes_of(const std::string& model, mllama::Models<Models...>) {
  std::optional<mllama::ModelSizes> sizes;
  ((Models::name == model ? void(sizes = mllama::sizes_of<Models>()) : void()), ...);
  if (sizes) return *sizes;
  mllama::check(mllama::detail::exists(model), [&] {
    std::string names;
    ((names += mllama::concat(names.empty() ? "" : ", ", Models::name)), ...);
    return mllama::Fault{.field = "MODEL", .expected = mllama::concat("a config.json, or one of ", names), .found = model};
  });
  return mllama::model_sizes(mllama::JsonFile(model).root());
}

void synthesize(const Arguments& arguments) {
  const support::Stopwatch watch;
  support::Progress progress(support::Terminal::of_stderr());
  const mllama::ModelSizes sizes = sizes_of(arguments.model, Choices{});
  mllama::SynthesisReport report;
  mllama::with_model_of(sizes, Choices{}, [&]<class Model>(std::type_identity<Model>) {
    std::size_t shown = 0;
    report = mllama::synthesize<Model>(arguments.out, sizes, arguments.settings(), [&](std::size_t done, std::size_t all) {
      constexpr std::size_t steps = 1000;
      if (shown == 0) progress.begin("Writing", {}, steps);
      if (const std::size_t step = steps * done / all; step > shown) progress.reach(shown = step);
    });
  });
  progress.end();
  for (const std::string& rest : report.rests) {
    std::fprintf(stderr, "%s: left as it is; another program writes it, or did\n", rest.c_str());
  }
  if (!report.has_tokenizer) {
    std::fprintf(stderr, "no tokenizer: a vocabulary of %d has no room for 256 bytes and special tokens\n", sizes.text.vocab);
  }
  const double seconds = watch.seconds(), megabytes = static_cast<double>(report.bytes) / 1e6;
  std::printf("%zu tensors, %zu bytes, %.1f s, %.0f MB/s, %.0f MB peak memory\n", report.tensors, report.bytes, seconds,
              megabytes / seconds, static_cast<double>(support::peak_memory()) / 1e6);
}

}  // namespace

int main(int argc, char** argv) {
  Arguments arguments;
  CLI::App app("Writes a checkpoint of made-up weights as Hugging Face saves it. The same seed gives the same bytes.",
               "synthesize");
  app.add_option("MODEL", arguments.model, "a model type by name, or the config.json of one")->required();
  app.add_option("--out", arguments.out, "folder to make")->required();
  app.add_option("--format", arguments.format, "of the linears")
      ->check(CLI::IsMember({"nf4", "fp4", "int8", "bf16"}))
      ->capture_default_str();
  auto* const nested = app.add_flag("--nested", arguments.nested, "4-bit scales are quantised themselves (default)");
  app.add_flag("--plain", arguments.plain, "4-bit scales are float32")->excludes(nested);
  app.add_option("--seed", arguments.seed, "of the weights")->capture_default_str();
  app.add_option("--threads", arguments.threads, "0: all");
  return support::run(app, argc, argv, [&] { synthesize(arguments); });
}
