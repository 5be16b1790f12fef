// SPDX-License-Identifier: MIT
// logits: runs a model on transformers' six inputs and writes what it computes, to be compared with another implementation.

#include <string>
#include <type_traits>
#include <vector>

#include <CLI/CLI.hpp>

#include <mllama/core/context.hpp>
#include <mllama/generate/adapters.hpp>
#include <mllama/generate/logits.hpp>
#include <mllama/generate/pretrained.hpp>
#include <mllama/io/safetensors_writer.hpp>
#include <mllama/models/mllama/adapted.hpp>

#include "models.hpp"
#include "support/adapters.hpp"
#include "support/command_line.hpp"
#include "support/terminal.hpp"

namespace {

struct Arguments {
  std::string model, inputs, out, profile = std::string(mllama::profile::meta::name), precision = "f32", kv = "f32";
  std::vector<std::string> adapters;
  unsigned threads = 0;
};

void run(const Arguments& arguments) {
  const mllama::Numerics numerics = support::numerics_of(arguments.profile);
  const mllama::Precision precision = support::precision_of(arguments.precision);
  const mllama::KeyFormat key_format = support::key_format_of(arguments.kv);
  using Choices = mllama::AdaptedModels<mllama::JoinModels<mllama::models::ModelList, mllama::ReleasedModels>>;
  mllama::with_model_of(arguments.model, Choices{}, [&]<class Model>(std::type_identity<Model>) {
    const auto weights = mllama::load_weights<Model>(arguments.model);
    mllama::Adapters adapters;
    mllama::Context ctx(arguments.threads);
    support::write_stderr(support::add_adapters(adapters, weights, arguments.adapters, ctx));
    const mllama::InputFile inputs(arguments.inputs);
    const auto outputs =
        mllama::run_logits<support::Backend>(*weights.model, inputs, numerics, arguments.threads, precision, key_format);
    std::vector<mllama::FileTensor> tensors;
    for (const mllama::NamedTensor& output : outputs) {
      tensors.push_back({output.name, mllama::Dtype::F32, output.shape, std::as_bytes(std::span(output.values))});
    }
    mllama::write_safetensors(arguments.out, tensors, {{"profile", arguments.profile}, {"model", std::string(Model::name)}});
  });
}

}  // namespace

int main(int argc, char** argv) {
  Arguments arguments;
  CLI::App app("Runs a model on padded inputs and writes logits, vision states and hidden states in float32.", "logits");
  app.add_option("--model", arguments.model, "folder as Hugging Face saves it")->required();
  app.add_option("--adapter", arguments.adapters, "LoRA adapter as PEFT saves it: DIR or DIR=SCALE; may be repeated")
      ->allow_extra_args(false);
  app.add_option("--inputs", arguments.inputs,
                 "safetensors file with any of input_ids, attention_mask, pixel_values, aspect_ratio_ids, aspect_ratio_mask, "
                 "cross_attention_mask, and decode_input_ids to be fed one by one afterwards")
      ->required();
  app.add_option("--out", arguments.out, "safetensors file to write")->required();
  app.add_option("--profile", arguments.profile,
                 "numerics: meta, transformers_4_45, transformers_4_55, transformers_4_56 or meta_rows");
  app.add_option("--precision", arguments.precision, "of matrix products: f32, int16, bf16 or int8");
  app.add_option("--kv", arguments.kv, "how keys and values are kept: f32, bf16, f16 or int8");
  app.add_option("--threads", arguments.threads, "0: all");
  return support::run(app, argc, argv, [&] { run(arguments); });
}
