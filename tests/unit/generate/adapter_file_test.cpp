// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include <mllama/generate/adapter_file.hpp>

#include "adapter_folder.hpp"

using namespace mllama;
using namespace mllama_test;

namespace {

constexpr std::uint32_t seed = 83;
const std::string up_proj = "language_model.model.layers.2.mlp.up_proj";
constexpr std::string_view canonical = "layers.2.mlp.up_proj";

/// The error of opening a folder and asking for one linear (40, 24), without the folder's name.
template <class Error>
std::string failure(const AdapterFolder& folder) {
  const std::string text = message<Error>([&] {
    AdapterFile file(folder.write());
    static_cast<void>(file.linear(canonical, 40, 24));
    file.check_all_used();
  });
  const std::string path = folder.path() + "/";
  return text.starts_with(path) ? text.substr(path.size()) : text;
}

std::vector<float> numbers(const Weights<F32>& weights) { return {weights.data, weights.data + weights.rows * weights.columns}; }

}  // namespace

TEST_CASE("a change is read under the keys of either layout, with and without PEFT's prefix") {
  CAPTURE(seed);
  AdapterFolder folder(seed);
  folder.add_change(up_proj, 40, 24);
  const std::vector<float> a = folder.tensors[0].values, b = folder.tensors[1].values;
  SUBCASE("old") {}
  SUBCASE("new") {
    for (SavedTensor& tensor : folder.tensors) tensor.name = replaced(tensor.name, up_proj, new_path(up_proj));
    CHECK(folder.tensors[0].name == "base_model.model.model.language_model.layers.2.mlp.up_proj.lora_A.weight");
  }
  SUBCASE("without the prefix") {
    for (SavedTensor& tensor : folder.tensors) tensor.name = replaced(tensor.name, "base_model.model.", "");
  }
  AdapterFile file(folder.write());
  CHECK_FALSE(file.linear("layers.1.mlp.up_proj", 40, 24).has_value());
  const auto change = file.linear(canonical, 40, 24);
  REQUIRE(change);
  CHECK(numbers(change->a) == a);
  CHECK(numbers(change->b) == b);
  CHECK(change->a.rows == 3);
  CHECK(change->b.columns == 3);
  CHECK(change->bias == nullptr);
  CHECK(change->magnitude == nullptr);
  CHECK(change->scale == 4.0 / 3);
  CHECK_NOTHROW(file.check_all_used());
  CHECK(file.config().notices.empty());
}

TEST_CASE("16-bit numbers are widened") {
  const TemporaryFolder folder;
  folder.write("adapter_config.json", R"({"peft_type": "LORA", "r": 1, "lora_alpha": 2})");
  const std::array<std::uint16_t, 2> a{0x3fc0, 0xc000}, b{0x3e00, 0xc000};  // 1.5, -2 in bfloat16 and in binary16
  const auto bytes = [](const auto& values) { return std::as_bytes(std::span(values)); };
  const std::vector<FileTensor> tensors{{"m.lora_A.weight", Dtype::BF16, {1, 2}, bytes(a)},
                                        {"m.lora_B.weight", Dtype::F16, {2, 1}, bytes(b)}};
  write_safetensors(folder / "adapter_model.safetensors", tensors);
  AdapterFile file(folder.path());
  const auto change = file.linear("m", 2, 2);
  REQUIRE(change);
  CHECK(numbers(change->a) == std::vector<float>{1.5F, -2});
  CHECK(numbers(change->b) == std::vector<float>{1.5F, -2});
}

TEST_CASE("ranks and alphas: the first pattern of the file that matches the end of the path, else the common value") {
  CAPTURE(seed);
  struct Case {
    std::string_view fields;
    std::size_t rank;
    double scale;
  };
  for (const auto& [fields, rank, scale] : std::vector<Case>{
           {R"("use_rslora": true)", 3, 4 / std::sqrt(3.0)},
           {R"("rank_pattern": {"up_proj": 2})", 2, 2},
           {R"("rank_pattern": {"up_proj": 2}, "use_rslora": true)", 2, 4 / std::sqrt(2.0)},
           {R"("alpha_pattern": {"up_proj": 1.5})", 3, 0.5},
           {R"("alpha_pattern": {"down_proj": 9, "mlp.up_proj": 6, "up_proj": 12})", 3, 2},
           {R"("alpha_pattern": {"p_proj": 9, "layers": 9, "^mlp.up_proj": 9, "up": 9, "language_model": 9})", 3, 4.0 / 3},
           {R"("alpha_pattern": {"layers\\.\\d+\\.mlp\\..*": 6})", 3, 2},
           {R"("alpha_pattern": {"^language_model.model.layers.2.mlp.up_proj": 6})", 3, 2},
           {R"("alpha_pattern": {"down_proj|up_proj": 6})", 3, 2},
           {R"("alpha_pattern": {"(?P<kind>up|down)_proj$": 6}, "rank_pattern": null)", 3, 2},
       }) {
    CAPTURE(fields);
    AdapterFolder folder(seed, fields);
    folder.add_change(up_proj, 40, 24, rank);
    AdapterFile file(folder.write());
    const auto change = file.linear(canonical, 40, 24);
    REQUIRE(change);
    CHECK(change->a.rows == rank);
    CHECK(change->scale == doctest::Approx(scale).epsilon(1e-15));
  }
}

TEST_CASE("patterns of hostile files: matching ends, and what Python understands otherwise is refused") {
  CAPTURE(seed);
  AdapterFolder folder(seed);
  folder.add_change(up_proj, 40, 24);
  const auto with = [&](std::string_view pattern) {
    folder.configure(concat(R"("alpha_pattern": {")", pattern, R"(": 1})"));
    return failure<format_error>(folder);
  };
  CHECK(with("((.+)+)+[xyz]")
            .starts_with("adapter_config.json: alpha_pattern.((.+)+)+[xyz]: the pattern cannot be matched with " + up_proj +
                         ": match limit"));
  CHECK(with("(?R)").starts_with("adapter_config.json: alpha_pattern.(?R): the pattern cannot be matched"));
  CHECK(with("up_proj(") ==
        "adapter_config.json: alpha_pattern.up_proj(: missing closing parenthesis in the pattern at about byte 18");
  CHECK(with("\\\\h") == "adapter_config.json: alpha_pattern.\\h: the escape \\h is not supported");
  CHECK(with("\\\\1") == "adapter_config.json: alpha_pattern.\\1: the escape \\1 is not supported");
  CHECK(with("(*ACCEPT)") == "adapter_config.json: alpha_pattern.(*ACCEPT): verbs, as in (*F), are not supported");
  std::string many = R"("rank_pattern": {)";
  for (int i = 0; i < 2049; ++i) many += concat(i == 0 ? "" : ", ", '"', i, R"(": 1)");
  folder.configure(many + "}");
  CHECK(failure<format_error>(folder).starts_with("adapter_config.json: rank_pattern: expected at most 2048 patterns, found "));
}

TEST_CASE("a change that is not whole or has other sizes") {
  CAPTURE(seed);
  AdapterFolder folder(seed);
  folder.add_change(up_proj, 40, 24);
  const std::string a = "adapter_model.safetensors: base_model.model." + up_proj + ".lora_A.weight: ",
                    b = "adapter_model.safetensors: base_model.model." + up_proj + ".lora_B.weight: ";
  SUBCASE("another rank than the configuration says") {
    folder.configure(R"("rank_pattern": {"up_proj": 5})");
    CHECK(failure<shape_error>(folder) == a + "expected [5, 24], found F32 [3, 24]");
  }
  SUBCASE("another number of features") {
    folder.tensors[0].shape = {3, 8, 3};
    CHECK(failure<shape_error>(folder) == a + "expected [3, 24], found F32 [3, 8, 3]");
    folder.tensors[0].shape = {3, 24};
    folder.tensors[1].shape = {24, 5};
    CHECK(failure<shape_error>(folder) == b + "expected [40, 3], found F32 [24, 5]");
  }
  SUBCASE("one half only") {
    folder.tensors.pop_back();
    CHECK(failure<format_error>(folder) == a + "expected a tensor " + up_proj + ".lora_B.weight beside it, found none");
  }
  SUBCASE("biases that the configuration does not know of, and the other way round") {
    folder.add(up_proj + ".lora_B.bias", {40});
    CHECK(failure<shape_error>(folder).find("found 1 others: base_model.model." + up_proj + ".lora_B.bias") != std::string::npos);
    folder.configure(R"("lora_bias": true)");
    CHECK(failure<shape_error>(folder) == "no exception");
    folder.tensors.pop_back();
    CHECK(failure<format_error>(folder) == a + "expected a tensor " + up_proj + ".lora_B.bias beside it, found none");
  }
  SUBCASE("the same with magnitudes") {
    folder.add(up_proj + ".lora_magnitude_vector", {40});
    CHECK(failure<shape_error>(folder).find("lora_magnitude_vector") != std::string::npos);
    folder.configure(R"("use_dora": true)");
    CHECK(failure<shape_error>(folder) == "no exception");
    folder.tensors.back().shape = {40, 1};
    CHECK(failure<shape_error>(folder).ends_with("lora_magnitude_vector: expected [40], found F32 [40, 1]"));
    folder.tensors.pop_back();
    CHECK(failure<format_error>(folder).ends_with("lora_magnitude_vector beside it, found none"));
  }
  SUBCASE("numbers of another type") {
    const std::vector<std::int32_t> integers(72);
    folder.write();
    const std::vector<FileTensor> tensors{{"m.lora_A.weight", Dtype::I32, {3, 24}, std::as_bytes(std::span(integers))},
                                          {"m.lora_B.weight", Dtype::F32, {24, 3}, std::as_bytes(std::span(integers))}};
    write_safetensors(folder / "adapter_model.safetensors", tensors);
    AdapterFile file(folder.path());
    CHECK(message<shape_error>([&] { static_cast<void>(file.linear("m", 24, 24)); }) ==
          folder / "adapter_model.safetensors: m.lora_A.weight: expected F32, BF16 or F16, found I32 [3, 24]");
  }
}

TEST_CASE("tensors that nobody has asked for are listed") {
  CAPTURE(seed);
  AdapterFolder folder(seed);
  const std::string begin = "adapter_model.safetensors: expected only tensors for modules of the model that take changes, found ";
  CHECK(failure<shape_error>(folder) == begin + "no tensor");
  for (const int layer : {7, 8, 9}) folder.add_change(concat("language_model.model.layers.", layer, ".mlp.up_proj"), 40, 24);
  const std::string list =
      "base_model.model.language_model.model.layers.7.mlp.up_proj.lora_A.weight, "
      "base_model.model.language_model.model.layers.7.mlp.up_proj.lora_B.weight, "
      "base_model.model.language_model.model.layers.8.mlp.up_proj.lora_A.weight, ...";
  CHECK(failure<shape_error>(folder) == begin + "none among 6: " + list);
  folder.add_change(up_proj, 40, 24);
  CHECK(failure<shape_error>(folder) == begin + "6 others: " + list);
  folder.tensors.erase(folder.tensors.begin(), folder.tensors.begin() + 6);
  folder.add("language_model.model.norm.weight", {24});
  CHECK(failure<shape_error>(folder) == begin + "1 others: base_model.model.language_model.model.norm.weight");
}

TEST_CASE("an embedding's change is that of its table") {
  CAPTURE(seed);
  AdapterFolder folder(seed);
  const SavedTensor a = folder.add("model.language_model.embed_tokens.lora_embedding_A", {3, 11}),
                    b = folder.add("model.language_model.embed_tokens.lora_embedding_B", {5, 3});
  AdapterFile file(folder.write());
  CHECK_FALSE(file.linear("embed_tokens", 11, 5).has_value());
  const auto change = file.embedding("embed_tokens", 11, 5);
  REQUIRE(change);
  std::vector<float> table(11 * 5);
  merge(std::array{ScaledLowRank{*change}}, 0, {table.data(), 11, 5, 5});
  for (std::size_t id = 0; id < 11; ++id) {
    for (std::size_t i = 0; i < 5; ++i) {
      double sum = 0;
      for (std::size_t j = 0; j < 3; ++j) sum += double{b.values[i * 3 + j]} * double{a.values[j * 11 + id]};
      CHECK(table[id * 5 + i] == doctest::Approx(sum * 4 / 3).epsilon(1e-5));
    }
  }
  folder.configure(R"("use_dora": true)");
  AdapterFile with_magnitudes(folder.write());
  CHECK(message<config_error>([&] { static_cast<void>(with_magnitudes.embedding("embed_tokens", 11, 5)); }) ==
        folder / "adapter_config.json: use_dora: expected false, for the embedding embed_tokens, found true");
}

TEST_CASE("replacements, trained biases and copies of the base") {
  CAPTURE(seed);
  AdapterFolder folder(seed);
  const auto role = [&](std::string_view fields, const std::string& key, std::string_view parameter) -> std::string {
    folder.configure(fields);
    folder.tensors.clear();
    folder.add(key, {4});
    AdapterFile file(folder.write());
    const std::array<std::size_t, 1> shape{4};
    if (file.replacement(parameter, shape) != nullptr) return "replacement";
    return file.copy(parameter, shape) != nullptr ? "copy" : "left over";
  };
  const std::string_view none, saved = R"("modules_to_save": ["norm", "layers.1.mlp"])", all = R"("bias": "all")";
  CHECK(role(none, "language_model.model.norm.weight", "norm.weight") == "left over");
  CHECK(role(saved, "language_model.model.norm.weight", "norm.weight") == "replacement");
  CHECK(role(saved, "model.language_model.norm.weight", "norm.weight") == "replacement");
  CHECK(role(saved, "model.language_model.norm.modules_to_save.weight", "norm.weight") == "replacement");
  CHECK(role(saved, "model.language_model.norm.original_module.weight", "norm.weight") == "copy");
  // As PEFT compares them: ends of paths, not whole names.
  CHECK(role(saved, "model.language_model.layers.0.cross_attn.q_norm.weight", "layers.0.cross_attn.q_norm.weight") ==
        "replacement");
  CHECK(role(saved, "model.language_model.layers.1.mlp.up_proj.weight", "layers.1.mlp.up_proj.weight") == "replacement");
  CHECK(role(saved, "model.language_model.layers.2.mlp.up_proj.weight", "layers.2.mlp.up_proj.weight") == "left over");
  CHECK(role(all, "model.vision_model.layernorm_pre.bias", "vision_model.layernorm_pre.bias") == "replacement");
  CHECK(role(all, "model.multi_modal_projector.base_layer.bias", "multi_modal_projector.bias") == "replacement");
  CHECK(role(R"("bias": "lora_only")", "model.multi_modal_projector.base_layer.bias", "multi_modal_projector.bias") ==
        "replacement");
  CHECK(role(none, "model.multi_modal_projector.base_layer.bias", "multi_modal_projector.bias") == "copy");
  CHECK(role(none, "language_model.lm_head.base_layer.weight", "lm_head.weight") == "copy");
  CHECK(role(none, "lm_head.weight", "lm_head.weight") == "copy");
  CHECK(role(none, "model.language_model.embed_tokens.weight", "embed_tokens.weight") == "copy");
  CHECK(role(R"("modules_to_save": ["lm_head"])", "lm_head.weight", "lm_head.weight") == "replacement");
  CHECK(role(none, "lm_head.base_layer.weight.absmax", "lm_head.weight") == "left over");

  folder.configure(saved);
  folder.tensors.clear();
  folder.add("norm.weight", {4});
  AdapterFile misshapen(folder.write());
  const std::array<std::size_t, 2> shape{2, 2};
  CHECK(message<shape_error>([&] { static_cast<void>(misshapen.replacement("norm.weight", shape)); }) ==
        folder / "adapter_model.safetensors: base_model.model.norm.weight: expected [2, 2], found F32 [4]");
}

TEST_CASE("two keys for the same tensor") {
  CAPTURE(seed);
  AdapterFolder folder(seed, R"("modules_to_save": ["norm"])");
  folder.add("norm.weight", {4});
  SavedTensor& second = folder.add("norm.modules_to_save.weight", {4});
  CHECK(failure<format_error>(folder) ==
        "adapter_model.safetensors: base_model.model.norm.weight: names the same tensor as "
        "base_model.model.norm.modules_to_save.weight");
  second.values = folder.tensors[0].values;  // PEFT saves both, where biases are trained, too
  AdapterFile file(folder.write());
  const std::array<std::size_t, 1> shape{4};
  CHECK(file.replacement("norm.weight", shape) != nullptr);
  CHECK_NOTHROW(file.check_all_used());
}

TEST_CASE("folders that are no adapters") {
  AdapterFolder folder(seed);
  const std::string nowhere = message<file_error>([] { AdapterFile("/nowhere/at/all"); });
  CHECK(nowhere.starts_with("/nowhere/at/all/adapter_config.json: cannot open"));
  folder.TemporaryFolder::write("adapter_config.json", folder.config);
  CHECK(message<file_error>([&] { AdapterFile(folder.path()); }).starts_with(folder / "adapter_model.safetensors: cannot open"));
  folder.TemporaryFolder::write("adapter_model.bin", "");
  CHECK(message<file_error>([&] { AdapterFile(folder.path()); }) ==
        folder.path() +
            ": expected adapter_model.safetensors, found adapter_model.bin: pickled tensors are not read; load the adapter "
            "with PEFT and save it again");
}

TEST_CASE("damaged files are errors, whatever is damaged") {
  CAPTURE(seed);
  AdapterFolder folder(seed,
                       R"("rank_pattern": {"up_proj": 3}, "alpha_pattern": {"x": 1}, "modules_to_save": ["norm"], "bias": "all")");
  folder.add_change(up_proj, 40, 24);
  folder.add("language_model.model.norm.weight", {24});
  folder.write();
  const std::string config = folder.read("adapter_config.json"), tensors = folder.read("adapter_model.safetensors");
  std::minstd_rand random(seed);
  const auto damaged = [&](std::string text, std::size_t most) {
    for (std::size_t i = 0, changes = 1 + random() % 3; i < changes; ++i) {
      text[random() % std::min(most, text.size())] = static_cast<char>(random() % 256);
    }
    return text;
  };
  std::size_t refused = 0;
  for (int i = 0; i < 400; ++i) {
    folder.TemporaryFolder::write("adapter_config.json", i % 2 == 0 ? damaged(config, config.size()) : config);
    folder.TemporaryFolder::write("adapter_model.safetensors", i % 2 == 1 ? damaged(tensors, 500) : tensors);
    try {
      AdapterFile file(folder.path());
      static_cast<void>(file.linear(canonical, 40, 24));
      file.check_all_used();
    } catch (const error&) {
      ++refused;
    }
  }
  CHECK(refused > 300);
}
