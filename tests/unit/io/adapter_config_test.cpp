// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <mllama/io/adapter_config.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "temporary_folder.hpp"

using namespace mllama;
using namespace mllama_test;

namespace {

AdapterConfig read(std::string_view fields) {
  const TemporaryFolder folder;
  return read_adapter_config(folder.write("adapter_config.json", concat("{", fields, "}")));
}

/// The error of reading a configuration of PEFT's with these fields, without the folder's name.
template <class Error>
std::string failure(std::string_view fields) {
  const std::string text = message<Error>([&] { static_cast<void>(read(fields)); });
  return text.substr(std::min(text.find("adapter_config.json"), text.size()));
}
template <class Error>
std::string lora_failure(std::string_view fields) {
  return failure<Error>(concat(R"("peft_type": "LORA", )", fields));
}

}  // namespace

TEST_CASE("what is not said has PEFT's default") {
  const AdapterConfig config = read(R"("peft_type": "LORA", "rank_pattern": null, "bias": null, "modules_to_save": null)");
  CHECK(config.rank == 8);
  CHECK(config.alpha == 8);
  CHECK(config.rank_pattern.empty());
  CHECK(config.alpha_pattern.empty());
  CHECK_FALSE(config.rank_stabilised);
  CHECK_FALSE(config.magnitudes);
  CHECK_FALSE(config.lora_bias);
  CHECK(config.bias == AdapterConfig::Bias::none);
  CHECK(config.modules_to_save.empty());
  CHECK(config.notices.empty());
}

TEST_CASE("what is said") {
  const AdapterConfig config = read(
      R"("peft_type": "LORA", "r": 16, "lora_alpha": 0.5, "use_rslora": true, "lora_bias": true, "bias": "lora_only",
         "rank_pattern": {"b": 4, "a": 2}, "alpha_pattern": {"z": 1.5, "y": -3}, "modules_to_save": ["lm_head", "norm"])");
  CHECK(config.rank == 16);
  CHECK(config.alpha == 0.5);
  CHECK(config.rank_stabilised);
  CHECK(config.lora_bias);
  CHECK(config.bias == AdapterConfig::Bias::lora_only);
  REQUIRE(config.rank_pattern.size() == 2);
  CHECK(config.rank_pattern[0].pattern == "b");  // in the order of the file
  CHECK(config.rank_pattern[0].value == 4);
  CHECK(config.rank_pattern[1].value == 2);
  REQUIRE(config.alpha_pattern.size() == 2);
  CHECK(config.alpha_pattern[0].value == 1.5);
  CHECK(config.alpha_pattern[1].pattern == "y");
  CHECK(config.modules_to_save == std::vector<std::string>{"lm_head", "norm"});
  CHECK(read(R"("peft_type": "LORA", "use_dora": true, "bias": "all")").magnitudes);
}

TEST_CASE("what PEFT 0.21.2 writes for a plain adapter gives no notice") {
  const AdapterConfig config = read(R"(
    "alora_invocation_tokens": null, "alpha_pattern": {}, "arrow_config": null,
    "auto_mapping": {"base_model_class": "MllamaForConditionalGeneration", "parent_library": "transformers"},
    "base_model_name_or_path": "unsloth/Llama-3.2-11B-Vision-Instruct-bnb-4bit", "bias": "none", "corda_config": null,
    "ensure_weight_tying": false, "eva_config": null, "exclude_modules": null, "fan_in_fan_out": false, "inference_mode": true,
    "init_lora_weights": true, "kasa_config": null, "layer_replication": null, "layers_pattern": null,
    "layers_to_transform": null, "loftq_config": {}, "lora_alpha": 6, "lora_bias": false, "lora_dropout": 0.05,
    "lora_ga_config": null, "megatron_config": null, "megatron_core": "megatron.core", "modules_to_save": null,
    "monteclora_config": null, "peft_type": "LORA", "peft_version": "0.21.2", "qalora_group_size": 16, "r": 4,
    "rank_pattern": {}, "revision": null, "target_modules": ["q_proj"], "target_parameters": null, "task_type": "CAUSAL_LM",
    "trainable_token_indices": null, "use_bdlora": null, "use_dora": false, "use_qalora": false, "use_rslora": false,
    "velora_config": null)");
  CHECK(config.rank == 4);
  CHECK(config.notices.empty());
}

TEST_CASE("unknown fields are ignored with a notice, which cannot steer a terminal") {
  const AdapterConfig config =
      read(R"("peft_type": "LORA", "unsloth_fixed": true, "new\u001b[2J": {"a": 1}, "fan_in_fan_out": true)");
  REQUIRE(config.notices.size() == 3);
  CHECK(config.notices[0] == config.file + ": unsloth_fixed: unknown field, ignored");
  CHECK(config.notices[1] == config.file + ": new\\x1b[2J: unknown field, ignored");
  CHECK(config.notices[2] == config.file + ": fan_in_fan_out: ignored, since the model's matrices are (out, in)");
  std::string many = R"("peft_type": "LORA")";
  for (int i = 0; i < 1000; ++i) many += concat(", \"field", i, "\": 0");
  CHECK(read(many).notices.size() == 20);
}

TEST_CASE("adapters of other kinds are refused") {
  CHECK(failure<config_error>(R"("r": 4)") ==
        "adapter_config.json: peft_type: expected \"LORA\", found nothing: adapters of other kinds are not supported");
  CHECK(failure<config_error>(R"("peft_type": "IA3")") ==
        "adapter_config.json: peft_type: expected \"LORA\", found \"IA3\": adapters of other kinds are not supported");
  for (const char* field : {R"("trainable_token_indices": [1])", R"("layer_replication": [[0, 2]])", R"("use_qalora": true)",
                            R"("target_parameters": ["a"])", R"("alora_invocation_tokens": [1])", R"("use_bdlora": {"nblocks": 2})",
                            R"("arrow_config": {"top_k": 3})", R"("kasa_config": {"a": 1})", R"("monteclora_config": {"a": 1})",
                            R"("velora_config": {"a": 1})", R"("megatron_config": {"a": 1})"}) {
    CAPTURE(field);
    const std::string text = lora_failure<config_error>(field);
    CHECK(text.find(": expected null, found ") != std::string::npos);
    CHECK(text.ends_with(": adapters of this kind are not supported"));
  }
  CHECK(lora_failure<config_error>(R"("use_qalora": false, "target_parameters": [ ], "megatron_config": { })") == "");
  CHECK(lora_failure<config_error>(R"("use_dora": true, "lora_bias": true)") ==
        "adapter_config.json: lora_bias: expected false, because use_dora is true, found true");
}

TEST_CASE("an adapter whose initialisation changed the base is refused") {
  for (const char* word : {"pissa", "pissa_niter_16", "olora", "corda", "loftq", "lora_ga"}) {
    CAPTURE(word);
    CHECK(lora_failure<config_error>(concat(R"("init_lora_weights": ")", word, '"')) ==
          concat("adapter_config.json: init_lora_weights: expected an initialisation that leaves the base as it is, found \"", word,
                 "\": save the adapter with PEFT's path_initial_model_for_weight_conversion"));
  }
  for (const char* value : {"true", "false", "null", R"("gaussian")", R"("eva")", R"("orthogonal")", R"("mica")"}) {
    CAPTURE(value);
    CHECK_NOTHROW(static_cast<void>(read(concat(R"("peft_type": "LORA", "init_lora_weights": )", value))));
  }
}

TEST_CASE("fields of another type or out of range") {
  const auto expect = [](std::string_view fields, std::string_view end) {
    CHECK(lora_failure<format_error>(fields) == concat("adapter_config.json: ", end));
  };
  expect(R"("r": 0)", "r: expected an integer from 1 to 4096, found 0");
  expect(R"("r": 2.5)", "r: expected an integer from 1 to 4096, found 2.5");
  expect(R"("r": 4097)", "r: expected an integer from 1 to 4096, found 4097");
  expect(R"("lora_alpha": "16")", "lora_alpha: expected a number, found \"16\"");
  expect(R"("lora_alpha": 1e999)", "lora_alpha: expected a number in the range of double, found 1e999");
  expect(R"("rank_pattern": [1])", "rank_pattern: expected an object of patterns and values, found [1]");
  expect(R"("rank_pattern": {"a": -1})", "rank_pattern.a: expected an integer from 1 to 4096, found -1");
  expect(R"("alpha_pattern": {"a": {}})", "alpha_pattern.a: expected a number, found {}");
  expect(R"("use_rslora": 1)", "use_rslora: expected true or false, found 1");
  expect(R"("bias": "some")", R"(bias: expected "none", "lora_only" or "all", found "some")");
  expect(R"("modules_to_save": "lm_head")", "modules_to_save: expected an array, found \"lm_head\"");
  CHECK(failure<format_error>(R"("peft_type": 1)") == "adapter_config.json: peft_type: expected a string, found 1");
  const TemporaryFolder folder;
  CHECK(message<format_error>([&] { static_cast<void>(read_adapter_config(folder.write("adapter_config.json", "[1]"))); }) ==
        folder / "adapter_config.json: expected an object, found [1]");
}
