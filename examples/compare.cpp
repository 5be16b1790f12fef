// SPDX-License-Identifier: MIT
// compare: runs a model in two ways, or against what another implementation computed, and shows where they begin to differ.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <CLI/CLI.hpp>

#include <mllama/core/context.hpp>
#include <mllama/generate/logits.hpp>
#include <mllama/generate/pretrained.hpp>
#include <mllama/generate/prompt_inputs.hpp>
#include <mllama/io/image.hpp>
#include <mllama/io/mapped_file.hpp>
#include <mllama/observe/error_lab.hpp>
#include <mllama/text/chat_template.hpp>

#include "models.hpp"
#include "support/arguments.hpp"
#include "support/command_line.hpp"
#include "support/terminal.hpp"

namespace {

using Choices = mllama::JoinModels<mllama::models::ModelList, mllama::ReleasedModels>;

void require(bool holds, std::string_view field, std::string_view expected, std::string_view found) {
  mllama::check(holds, [&] {
    return mllama::Fault{.field = std::string(field), .expected = std::string(expected), .found = std::string(found)};
  });
}

/// How to run a model: `precision=int8,kv=int8,profile=transformers_4_56,model=DIR`.
struct Settings {
  std::string model, profile = "meta", precision = "f32", kv = "f32";

  /// Errors:  input_error; `option` is the user's word for it.
  Settings(std::string_view option, std::string_view text, std::string default_model) : model(std::move(default_model)) {
    while (!text.empty()) {
      const std::string_view one = text.substr(0, text.find(','));
      text.remove_prefix(std::min(text.size(), one.size() + 1));
      const std::size_t equals = one.find('=');
      const std::string_view key = one.substr(0, equals);
      std::string* const value = key == "model"       ? &model
                                 : key == "profile"   ? &profile
                                 : key == "precision" ? &precision
                                 : key == "kv"        ? &kv
                                                      : nullptr;
      require(value != nullptr && equals != one.npos, option, "model=DIR, profile=P, precision=P or kv=F", one);
      *value = one.substr(equals + 1);
    }
  }

  template <class Model>
  [[nodiscard]] mllama::LabSide<Model> side(const Model& of) const {
    return {&of, support::numerics_of(profile), support::precision_of(precision), support::key_format_of(kv)};
  }
  [[nodiscard]] std::string text() const {
    return mllama::concat(model, ", profile ", profile, ", precision ", precision, ", kv ", kv);
  }
};

struct Arguments {
  std::string model, a, b, prompt_file, picture;
  std::vector<std::string> prompts, activations;
  std::size_t max_new_tokens = 16;
  std::optional<double> bound;
  unsigned threads = 0;
};

/// A question, and the file of a picture unless there is none.
struct Question {
  std::string text, picture;
};

/// Those of the arguments, then those of the file: a line each, with a picture of its own behind a tab.
std::vector<Question> questions_of(const Arguments& arguments) {
  std::vector<Question> questions;
  questions.reserve(arguments.prompts.size());
  for (const std::string& prompt : arguments.prompts) questions.push_back({prompt, arguments.picture});
  if (!arguments.prompt_file.empty()) {
    const mllama::MappedFile file(arguments.prompt_file);
    for (std::string_view rest = file.text(); !rest.empty();) {
      std::string_view line = rest.substr(0, rest.find('\n'));
      rest.remove_prefix(std::min(rest.size(), line.size() + 1));
      if (line.ends_with('\r')) line.remove_suffix(1);
      if (line.empty()) continue;
      const std::size_t tab = line.find('\t');
      questions.push_back(
          {std::string(line.substr(0, tab)), tab == line.npos ? arguments.picture : std::string(line.substr(tab + 1))});
    }
  }
  require(!questions.empty(), "PROMPT", "a question, --prompts or --activations", "none");
  return questions;
}

/// A question as the model is to read it.
template <class Model>
mllama::PromptInputs inputs_of(const mllama::Pretrained<Model>& model, const Question& question) {
  std::vector<mllama::ContentPart> parts;
  mllama::ImageBatch pictures;
  if (!question.picture.empty()) {
    model.model().require_vision("--image");
    const mllama::ImageProcessor& processor = model.require(model.processor, "preprocessor_config.json");
    pictures = processor.pack({{{processor.tiles(mllama::read_image(question.picture))}}});
    parts.emplace_back(mllama::ImagePart{});
  }
  parts.emplace_back(question.text);
  const mllama::Message message{"user", std::move(parts)};
  const auto ids =
      model.require(model.tokenizer, "tokenizer.json")
          .encode(mllama::render_chat({&message, 1}, {.chat_template = model.chat_template.value_or(mllama::ChatTemplate::plain)}));
  return {ids, std::move(pictures), Model::Text::image_token};
}

/// Gives the lab what a file has of another implementation: inputs, what passes taps, and the answer at the end of the inputs.
/// Errors:  input_error, format_error
template <class Model>
void give_activations(const mllama::InputFile& inputs, const std::string& path, mllama::ErrorLab& lab) {
  inputs.check_pixels<typename Model::Vision>();
  const auto refuse = [&](std::string_view field, std::string_view expected, std::string found) {
    throw mllama::input_error(
        mllama::Fault{.file = path, .field = std::string(field), .expected = std::string(expected), .found = std::move(found)});
  };
  const mllama::PaddedInputs& in = inputs.inputs();
  if (in.batch != 1 || in.input_ids.empty()) refuse("input_ids", "one row", mllama::concat(in.input_ids.empty() ? 0 : in.batch));
  if (!std::ranges::all_of(in.attention_mask, [](std::int64_t real) { return real == 1; })) refuse("attention_mask", "1", "0");
  const mllama::FileTensor* const answer = inputs.file().find("answer_ids");
  const std::size_t tokens = answer == nullptr ? 1 : answer->size();
  if (tokens == 0 || tokens > in.length)
    refuse("answer_ids", mllama::concat("1 to ", in.length, " tokens"), mllama::concat(tokens));
  lab.begin_prompt(tokens);
  for (const mllama::FileTensor& tensor : inputs.file().tensors()) {
    if (!mllama::ErrorLab::wants(std::string_view(tensor.name).substr(0, tensor.name.find('.')))) continue;
    if (tensor.dtype != mllama::Dtype::F32) refuse(tensor.name, "F32", std::string(mllama::name(tensor.dtype)));
    std::vector<float> values(tensor.size());
    std::memcpy(values.data(), tensor.bytes.data(), tensor.bytes.size());
    lab.give(tensor.name, std::move(values));
  }
}

std::string module_line(const char* what, double bound, const mllama::ModuleError* module) {
  return mllama::concat("first module ", what, " beyond ", mllama::ErrorReport::format("%g", bound), ": ",
                        module == nullptr ? "none" : module->module, '\n');
}

/// All that is compiled for each model type.
/// Returns:  false if an error is beyond the bound.
template <class Model>
bool compare(const Arguments& arguments, const Settings& a, const Settings& b) {
  const auto main = mllama::load<Model>(a.model);
  std::optional<mllama::Weighted<Model>> other;
  if (b.model != a.model) other = mllama::load_weights<Model>(b.model);
  const mllama::LabSide<Model> reference = a.side(main.model()), side = b.side(other ? *other->model : main.model());
  mllama::Context<support::Backend, mllama::ErrorLab> ctx(arguments.threads);
  mllama::ErrorLab& lab = ctx.observer();
  support::Output output;

  std::vector<std::string> names;  // of prompts
  if (!arguments.activations.empty()) {
    for (const std::string& path : arguments.activations) {
      const mllama::InputFile inputs(path, mllama::InputFile::OtherTensors::ignored);
      give_activations<Model>(inputs, path, lab);
      mllama::compare_with_reference(side, inputs.inputs(), lab, ctx);
      names.push_back(path);
      output.write(mllama::concat("A: ", path, '\n'));
    }
  } else {
    output.write(mllama::concat("A: ", a.text(), '\n'));
    for (const Question& question : questions_of(arguments)) {
      mllama::compare_sides(reference, side, inputs_of(main, question), arguments.max_new_tokens, main.generation.eos, lab, ctx);
      names.push_back(question.text);
    }
  }
  const mllama::ErrorReport report = lab.report<Model>();
  output.write(mllama::concat("B: ", b.text(), "\n\n", report.table(), '\n'));

  const mllama::AnswerError all = report.all_answers();
  const auto number = [](double value) { return mllama::ErrorReport::format("%.3g", value); };
  output.write(mllama::concat("KL(A || B) of the next token: mean ", number(all.divergence), ", largest ", number(all.largest),
                              " nats, over ", all.tokens, all.tokens == 1 ? " token\n" : " tokens\n"));
  output.write(mllama::concat("greedy answers that change: ", report.changed_answers(), " of ", report.answers.size(),
                              "\nmost probable tokens that change: ", all.changed, " of ", all.tokens, '\n'));
  for (std::size_t i = 0; i < names.size(); ++i) {
    const mllama::AnswerError& answer = report.answers[i];
    if (answer.changed == 0) continue;
    output.write(mllama::concat("  from token ", answer.first + 1, " of ", answer.tokens, ": ", names[i], '\n'));
  }
  if (!arguments.bound) return true;
  const double bound = *arguments.bound;
  output.write(module_line("that makes an error", bound, report.first_that_makes(bound)));
  output.write(module_line("whose result has an error", bound, report.first_that_has(bound)));
  return report.first_that_makes(bound) == nullptr && report.first_that_has(bound) == nullptr;
}

void declare(CLI::App& app, Arguments& arguments) {
  const auto add = [&](const char* name, auto& value, const char* what, const char* type) {
    return app.add_option(name, value, what)->type_name(type);
  };
  add("PROMPT", arguments.prompts, "what to ask, once for each prompt", "");
  add("-m,--model", arguments.model, "folder as Hugging Face saves it; default: Pocket", "DIR");
  add("-a,--a", arguments.a, "the reference: profile=P, precision=P, kv=F, model=DIR; default: profile=meta,precision=f32,kv=f32",
      "KEY=VALUE,…");
  add("-b,--b", arguments.b, "what is compared with it, in the same words; a DIR has a model of the same sizes", "KEY=VALUE,…");
  add("--activations", arguments.activations,
      "instead of A, what another implementation computed, as dump_activations.py writes it; may be repeated", "FILE")
      ->allow_extra_args(false);
  add("--prompts", arguments.prompt_file, "a prompt in each line, with a picture of its own behind a tab", "FILE");
  add("-i,--image", arguments.picture, "picture of all prompts that have none of their own, PNG, JPEG, PGM or PPM", "FILE");
  add("-n,--max-new-tokens", arguments.max_new_tokens, "compare the first N tokens of A's answers; default 16", "N")
      ->check(support::number<std::size_t>("a whole number from 1 on", 1));
  add("--bound", arguments.bound, "name the first module with an error beyond X; status 1 if there is one", "X")
      ->check(support::number<double>("a number from 0 on", 0));
  add("-t,--threads", arguments.threads, "threads to use; default: all of the machine", "N")
      ->check(support::number<unsigned>("a whole number from 1 to 1024", 1, 1024));
}

}  // namespace

int main(int argc, char** argv) {
  Arguments arguments;
  bool good = true;
  CLI::App app(
      "Runs a model in two ways, A and B, and prints for each module the error of what it is given, the error that it makes of A's "
      "own input, and the error of what it gives on.",
      "compare");
  declare(app, arguments);
  const int status = support::run(app, argc, argv, [&] {
    if (arguments.model.empty()) arguments.model = support::pocket_folder() + "/model-nf4";
    const Settings a("--a", arguments.a, arguments.model), b("--b", arguments.b, arguments.model);
    const bool given = !arguments.activations.empty();
    require(given || !arguments.b.empty(), "--b", "what to compare with A", "none");
    require(!given || arguments.a.empty(), "--a", "none beside --activations", arguments.a);
    require(!given || (arguments.prompts.empty() && arguments.prompt_file.empty() && arguments.picture.empty()), "--activations",
            "no other prompts and pictures", "some");
    mllama::with_model_of(given ? b.model : a.model, Choices{},
                          [&]<class Model>(std::type_identity<Model>) { good = compare<Model>(arguments, given ? b : a, b); });
  });
  return good ? status : 1;
}
