// SPDX-License-Identifier: MIT
// questions: asks many questions about many pictures, one by one and in one batch, and says what that gains.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <CLI/CLI.hpp>

#include <mllama/core/context.hpp>
#include <mllama/generate/pretrained.hpp>
#include <mllama/generate/ragged_batch.hpp>
#include <mllama/io/image.hpp>
#include <mllama/models/mllama/models.hpp>
#include <mllama/text/chat_template.hpp>

#include "models.hpp"
#include "support/arguments.hpp"
#include "support/command_line.hpp"
#include "support/stopwatch.hpp"

namespace {

struct Arguments {
  std::string model, precision = "f32";
  std::vector<std::string> pictures, questions;
  std::size_t max_new_tokens = 24;
  unsigned threads = 0;

  void complete() {
    const std::string pocket = support::pocket_folder();
    if (model.empty()) model = pocket + "/model-nf4";
    if (pictures.empty()) {
      for (const char* name :
           {"empty.png", "grainy.jpg", "night.png", "shapes.png", "small.png", "tall.png", "two-circles.png", "wide.png"})
        pictures.push_back(pocket + "/pictures/" + name);
    }
    if (questions.empty())
      questions = {"What is in the picture?", "How many shapes are there?", "Is there a circle?", "What colour is the background?"};
  }
};

/// The answers, and what they took.
struct Answers {
  std::vector<std::vector<std::int32_t>> tokens;
  double seconds = 0;

  [[nodiscard]] double rate() const {
    std::size_t count = 0;
    for (const auto& answer : tokens) count += answer.size();
    return static_cast<double>(count) / seconds;
  }
};

/// Returns:  whether both ways gave the same answers
template <class Model>
bool ask(const Arguments& arguments) {
  mllama::Context<support::Backend> ctx(arguments.threads);
  ctx.precision(support::precision_of(arguments.precision));
  const auto model = mllama::load<Model>(arguments.model);
  const mllama::Tokenizer& tokenizer = model.require(model.tokenizer, "tokenizer.json");

  struct Prompt {
    std::vector<std::int32_t> ids;
    std::vector<mllama::Picture<Model>> pictures;
  };
  std::vector<Prompt> prompts;
  const support::Stopwatch encoding;
  for (const std::string& file : arguments.pictures) {
    const auto picture = model.encode(mllama::read_image(file), ctx, Model::numerics);  // once, for all questions about it
    for (const std::string& question : arguments.questions) {
      const mllama::Message message{"user", std::vector<mllama::ContentPart>{mllama::ImagePart{}, question}};
      const mllama::ChatOptions options{.chat_template = model.chat_template.value_or(mllama::ChatTemplate::plain)};
      prompts.push_back({tokenizer.encode(mllama::render_chat({&message, 1}, options)), {picture}});
    }
  }
  std::printf("%zu pictures encoded in %.2f s\n\n", arguments.pictures.size(), encoding.seconds());

  const mllama::StopRules stop{model.generation.eos, arguments.max_new_tokens};
  const auto one_by_one = [&] {
    Answers answers;
    const support::Stopwatch watch;
    for (const Prompt& prompt : prompts) {
      mllama::Session session(model.model(), ctx);
      mllama::Sampler greedy;
      answers.tokens.push_back(mllama::generate(session, std::span<const std::int32_t>(prompt.ids), std::span(prompt.pictures),
                                                greedy, stop, [](std::int32_t) { return true; }));
    }
    answers.seconds = watch.seconds();
    return answers;
  };
  const auto together = [&] {
    Answers answers;
    const support::Stopwatch watch;
    mllama::RaggedBatch batch(model.model(), ctx);
    for (const Prompt& prompt : prompts) batch.append(batch.add(), prompt.ids, prompt.pictures);
    std::vector<mllama::Sampler> greedy(prompts.size());
    answers.tokens = mllama::generate(batch, std::span(greedy), stop, [](std::size_t, std::int32_t) { return true; });
    answers.seconds = watch.seconds();
    return answers;
  };
  static_cast<void>(mllama::Session(model.model(), ctx).append(prompts[0].ids, prompts[0].pictures));  // reads the weights
  const Answers apart = one_by_one(), batched = together();

  std::size_t number = 0, different = 0;
  for (const std::string& file : arguments.pictures) {
    std::printf("%s\n", file.substr(file.find_last_of('/') + 1).c_str());
    for (const std::string& question : arguments.questions) {
      const auto text = [&](const Answers& answers) {
        return tokenizer.decode(answers.tokens[number], {.skip_special_tokens = true});
      };
      std::printf("  %s %s\n", question.c_str(), text(batched).c_str());
      if (apart.tokens[number] != batched.tokens[number]) {
        ++different;
        std::printf("    one by one: %s\n", text(apart).c_str());
      }
      ++number;
    }
  }
  std::printf("\n%zu questions one by one: %.2f s, %.1f tokens/s\n", number, apart.seconds, apart.rate());
  std::printf("in one batch: %.2f s, %.1f tokens/s, %.2f times as fast\n", batched.seconds, batched.rate(),
              apart.seconds / batched.seconds);
  std::printf("%zu answers differ\n", different);
  return different == 0;
}

}  // namespace

int main(int argc, char** argv) {
  Arguments arguments;
  CLI::App app("Asks every question about every picture: one by one, then all in one batch.", "questions");
  app.add_option("PICTURE", arguments.pictures, "files of pictures; default: Pocket's")->type_name("");
  app.add_option("-m,--model", arguments.model, "model folder; default: Pocket")->type_name("DIR");
  app.add_option("-q,--question", arguments.questions, "what to ask, as often as there are questions; default: four")
      ->type_name("TEXT");
  app.add_option("-p,--precision", arguments.precision, "f32, int16, bf16 or int8: of the matrix products")->type_name("NAME");
  app.add_option("-n,--max-new-tokens", arguments.max_new_tokens, "of an answer, at most")->type_name("N");
  app.add_option("-t,--threads", arguments.threads, "default: all")->type_name("N");
  bool same = true;
  const int status = support::run(app, argc, argv, [&] {
    arguments.complete();
    mllama::with_model_of(arguments.model, mllama::JoinModels<mllama::models::ModelList, mllama::ReleasedModels>{},
                          [&]<class Model>(std::type_identity<Model>) { same = ask<Model>(arguments); });
  });
  return status == 0 && !same ? 2 : status;
}
