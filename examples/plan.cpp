// SPDX-License-Identifier: MIT
// plan: what a model takes of memory and computes, module by module, before anything of it is loaded.

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdio>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include <CLI/CLI.hpp>

#include <mllama/core/context.hpp>
#include <mllama/generate/memory_check.hpp>
#include <mllama/generate/plan.hpp>
#include <mllama/models/mllama/describe.hpp>
#include <mllama/models/mllama/models.hpp>

#include "models.hpp"
#include "support/command_line.hpp"
#include "support/memory.hpp"

namespace {

using mllama::concat;
using Choices = mllama::JoinModels<mllama::models::ModelList, mllama::ReleasedModels>;

struct Arguments {
  std::string model{mllama::Llama32Vision11B::name}, format, precision = "int16", kv = "f32", memory;
  bool plain = false;
  mllama::Workload work{.tokens = 512, .images = 1, .new_tokens = 128};
  unsigned threads = 0;

  /// How the model is stored if no folder says.
  [[nodiscard]] mllama::Storage storage() const {
    const auto storage = mllama::storage_of(format.empty() ? "nf4" : format, !plain);
    mllama::check(storage.has_value(), [&] {
      return mllama::Fault{.field = "--format", .expected = "nf4, fp4, int8, bf16, f16 or f32", .found = format};
    });
    return *storage;
  }
};

using Row = std::array<std::string, 6>;

/// A number's digits in threes.
std::string grouped(std::size_t number) { return number == 0 ? "" : mllama::detail::grouped(number); }
std::string gigaflops(double flops) {
  std::array<char, 64> text{};
  std::snprintf(text.data(), text.size(), "%.3f", flops / 1e9);
  return flops == 0 ? "" : text.data();
}

Row row_of(std::string name, const mllama::Cost& cost) {
  return {std::move(name),      grouped(cost.parameters), grouped(cost.weights), grouped(cost.read + cost.widened),
          grouped(cost.caches), gigaflops(cost.flops)};
}

std::string table_of(const std::vector<Row>& rows) {
  std::array<std::size_t, std::tuple_size_v<Row>> widths{};
  for (const Row& row : rows) {
    for (std::size_t c = 0; c < row.size(); ++c) widths[c] = std::max(widths[c], row[c].size());
  }
  std::string text;
  for (const Row& row : rows) {
    for (std::size_t c = 0; c < row.size(); ++c) {
      const std::string padding(widths[c] - row[c].size(), ' ');
      text += concat("| ", c == 0 ? "" : padding, row[c], c == 0 ? padding : "", ' ');
    }
    text += "|\n";
    if (&row != rows.data()) continue;
    for (std::size_t c = 0; c < widths.size(); ++c) text += concat("|", std::string(widths[c] + 1, '-'), c == 0 ? "-" : ":");
    text += "|\n";
  }
  return text;
}

template <class Model>
std::string text_of(const mllama::Plan<Model>& plan) {
  std::vector<Row> rows{{"module", "parameters", "bytes in files", "bytes in memory", "bytes of keys and values", "GFLOP"}};
  for (const mllama::ModuleCost& module : plan.modules) {
    if (module.cost.parameters == 0 && module.cost.weights == 0) continue;
    rows.push_back(row_of(concat(module.parent, module.parent.empty() ? "" : ".", module.name), module.cost));
  }
  rows.push_back(row_of("total", plan.total()));
  const auto line = [](std::string_view name, std::size_t bytes) {
    return concat(name, ": ", mllama::detail::grouped(bytes), " bytes\n");
  };
  return table_of(rows) + '\n' + line("workspace while pictures are encoded", plan.vision_workspace) +
         line("workspace while text is read and written", plan.text_workspace) + line("workspace at the peak", plan.workspace) +
         line("memory at the peak", plan.memory());
}

template <class Model>
std::string text_of(const Arguments& arguments, bool is_folder) {
  mllama::Context<support::Backend> ctx(arguments.threads);
  ctx.precision(support::precision_of(arguments.precision));
  mllama::PlanPolicy policy{arguments.storage(), support::key_format_of(arguments.kv)};
  mllama::Workload work = arguments.work;
  mllama::check(work.images <= work.tokens, [&] {
    return mllama::Fault{
        .field = "--tokens", .expected = concat("at least ", work.images, ", one for each picture"), .found = concat(work.tokens)};
  });
  mllama::Plan<Model> plan;
  if (is_folder && arguments.format.empty()) {
    const mllama::ModelFiles files = mllama::ModelFiles::open(arguments.model);
    policy.storage = mllama::storage_of(files);
    plan = mllama::plan_folder<Model>(files, work, policy.keys, ctx);
  } else {
    plan = mllama::plan<Model>(work, policy, ctx);
  }
  const std::string text = text_of(plan);
  if (!arguments.memory.empty()) {
    mllama::require_memory(arguments.model, plan, work, policy, ctx, support::memory_limit(arguments.memory));
  }
  return text;
}

template <class... Models>
std::string names(mllama::Models<Models...>) {
  std::string all;
  ((all += concat(all.empty() ? "" : ", ", Models::name)), ...);
  return all;
}

/// The plan of the model type of this name; empty if there is none.
template <class... Models>
std::string text_of_type(const Arguments& arguments, mllama::Models<Models...>) {
  std::string text;
  ((Models::name == arguments.model ? void(text = text_of<Models>(arguments, false)) : void()), ...);
  return text;
}

std::string text_of(const Arguments& arguments) {
  std::string text = text_of_type(arguments, Choices{});
  if (!text.empty()) return text;
  mllama::check(mllama::detail::exists(arguments.model), [&] {
    return mllama::Fault{.field = "MODEL", .expected = concat("a folder, or one of ", names(Choices{})), .found = arguments.model};
  });
  mllama::with_model_of(arguments.model, Choices{},
                        [&]<class Model>(std::type_identity<Model>) { text = text_of<Model>(arguments, true); });
  return text;
}

}  // namespace

int main(int argc, char** argv) {
  Arguments arguments;
  CLI::App app("Says what a model takes of memory and computes, before anything of it is loaded.", "plan");
  app.add_option("MODEL", arguments.model, concat("a folder, or one of ", names(Choices{})))->capture_default_str();
  app.add_option("--format", arguments.format, "of the linears: nf4 (default), fp4, int8, bf16, f16 or f32; of a folder, its own");
  app.add_flag("--plain", arguments.plain, "4-bit scales are float32, not quantised themselves");
  app.add_option("--tokens", arguments.work.tokens, "of the prompt, pictures' included")
      ->check(CLI::Range(1, 10'000'000))
      ->capture_default_str();
  app.add_option("--images", arguments.work.images, "pictures, each of all tiles")
      ->check(CLI::Range(0, 10'000))
      ->capture_default_str();
  app.add_option("--new-tokens", arguments.work.new_tokens, "generated after the prompt")
      ->check(CLI::Range(0, 10'000'000))
      ->capture_default_str();
  app.add_option("--kv", arguments.kv, "how keys and values are kept: f32, bf16, f16 or int8")->capture_default_str();
  app.add_option("--policy,--precision", arguments.precision, "of matrix products: f32, int16, bf16 or int8")
      ->capture_default_str();
  app.add_option("--threads", arguments.threads, "0: all");
  app.add_option("--max-memory", arguments.memory, "fail, and say what would fit, if the plan needs more bytes than this, as 8G");
  return support::run(app, argc, argv, [&] { std::fputs(text_of(arguments).c_str(), stdout); });
}
