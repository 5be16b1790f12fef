// SPDX-License-Identifier: MIT
// describe: answers questions about pictures.

#include <cstddef>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include <CLI/CLI.hpp>

#include <mllama/core/context.hpp>
#include <mllama/generate/adapters.hpp>
#include <mllama/generate/chat.hpp>
#include <mllama/generate/memory_check.hpp>
#include <mllama/generate/pretrained.hpp>
#include <mllama/models/mllama/adapted.hpp>
#include <mllama/models/mllama/models.hpp>

#include "models.hpp"
#include "support/adapters.hpp"
#include "support/arguments.hpp"
#include "support/memory.hpp"
#include "support/progress.hpp"
#include "support/summary.hpp"
#include "support/terminal.hpp"
#include "support/turns.hpp"

namespace {

using Choices = mllama::AdaptedModels<mllama::JoinModels<mllama::models::ModelList, mllama::ReleasedModels>>;

/// The whole conversation with a model. All that is compiled for each model type is here.
template <class Model>
support::Summary converse(const support::Arguments& arguments, const support::Terminal& terminal, support::Turns& turns) {
  constexpr std::size_t vision_layers = Model::Vision::layers + Model::Vision::global_layers;
  support::Summary summary;
  mllama::Context<support::Backend, support::Progress> ctx(arguments.threads, support::Progress(terminal));
  ctx.precision(support::precision_of(arguments.precision));
  ctx.key_format(support::key_format_of(arguments.kv));
  support::Progress& progress = ctx.observer();
  support::Output output;

  const support::Stopwatch loading;
  progress.begin("Loading");
  const std::size_t memory = support::memory_limit(arguments.max_memory);
  if (memory != support::all_memory) {
    mllama::require_memory<Model>(arguments.model, arguments.work(), ctx.key_format(), ctx, memory);
  }
  const auto model = mllama::load<Model>(arguments.model);
  mllama::Adapters adapters;
  const auto notices = support::add_adapters(adapters, model, arguments.adapters, ctx);
  progress.end();
  if (!arguments.quiet) support::write_stderr(notices);
  summary.load = loading.seconds();

  mllama::Chat chat{model, ctx, arguments.settings(model.generation)};
  if (!arguments.system.empty()) chat.system(arguments.system);
  while (const auto turn = turns.next()) {
    progress.begin("Encoding", "vision_states", turn->pictures.size() * vision_layers);
    chat.user(turn->pictures, turn->question);
    progress.begin("Reading", "hidden_states", Model::Text::layers + 1);
    chat.answer([&](std::string_view piece) {
      progress.end();
      output.write(piece);
    });
    progress.end();
    output.write("\n");
  }

  summary.model = Model::name;
  summary.model_bytes = model.weights.files.mapped_bytes();
  summary.threads = ctx.threads().size();
  summary.arithmetic = mllama::concat(arguments.precision, " on ", ctx.body_name());
  summary.chat = chat.timings();
  return summary;
}

void describe(const support::Arguments& arguments) {
  const support::Stopwatch all;
  const support::Terminal terminal = arguments.quiet ? support::Terminal{} : support::Terminal::of_stderr();
  support::Turns turns(arguments, terminal);
  support::Summary summary;
  mllama::with_model_of(arguments.model, Choices{},
                        [&]<class Model>(std::type_identity<Model>) { summary = converse<Model>(arguments, terminal, turns); });
  summary.total = all.seconds() - turns.waited();
  summary.memory = support::peak_memory();
  if (!arguments.quiet) support::write_stderr('\n' + summary.table());
}

}  // namespace

int main(int argc, char** argv) {
  support::Arguments arguments;
  std::vector<std::string> words;
  CLI::App app("Answers questions about pictures with Llama 3.2 Vision and other Mllama models.", "describe");
  support::declare(app, arguments, words);
  return support::run(app, argc, argv, [&] {
    arguments.complete(words);
    describe(arguments);
  });
}
