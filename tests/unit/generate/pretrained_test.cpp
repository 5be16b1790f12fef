// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <algorithm>
#include <filesystem>
#include <iterator>
#include <string>
#include <variant>
#include <vector>

#include <unit/io/four_bit_matrix.hpp>

#include "tiny_folder.hpp"

using namespace mllama;
using namespace mllama_test;

namespace {

constexpr std::uint32_t seed = 61;

/// The error of loading a folder, without the folder's name.
template <class Error>
std::string failure(const TinyFolder& folder) {
  const std::string text = message<Error>([&] { static_cast<void>(load<Tiny>(folder.path())); });
  const std::string path = folder.path() + "/";
  return text.starts_with(path) ? text.substr(path.size()) : text;
}

bool same_weights(const Tiny& a, const Tiny& b) {
  return std::ranges::equal(saved_tensors(a), saved_tensors(b),
                            [](const SavedTensor& x, const SavedTensor& y) { return x.name == y.name && x.values == y.values; });
}

}  // namespace

TEST_CASE("a folder is loaded as it was saved") {
  const TinyFolder folder(seed);
  const auto loaded = load<Tiny>(folder.path());
  CHECK(same_weights(loaded.model(), *folder.random.model));
  CHECK(loaded.sizes.text.max_positions == 200);
  CHECK(loaded.generation.eos == std::vector<std::int32_t>{503, 511});
  CHECK(loaded.generation.max_new_tokens == 12);
  REQUIRE(loaded.tokenizer);
  CHECK(loaded.tokenizer->size() == 514);
  REQUIRE(loaded.processor);
  CHECK(loaded.processor->config().mean[0] == 0.4);
  CHECK_FALSE(loaded.chat_template);

  SUBCASE("and its weights lie in the mapped file") {
    const auto& weights = loaded.model().language_model.model.layers.self[0].mlp.up_proj.weight.weights;
    const FileTensor* tensor = nullptr;
    const Safetensors file(folder / "model.safetensors");
    for (const FileTensor& candidate : file.tensors()) {
      if (candidate.name == "language_model.model.layers.0.mlp.up_proj.weight") tensor = &candidate;
    }
    REQUIRE(tensor != nullptr);
    CHECK(weights.rows == 40);
    CHECK(std::ranges::equal(std::as_bytes(std::span(weights.data, 40 * 24)), tensor->bytes));
  }
}

TEST_CASE("a folder in shards is the same model") {
  const TinyFolder folder(seed);
  auto tensors = saved_tensors(*folder.random.model);
  const std::size_t half = tensors.size() / 2;
  save(folder / "model-00001-of-00002.safetensors", std::span(tensors).first(half));
  save(folder / "model-00002-of-00002.safetensors", std::span(tensors).subspan(half));
  std::string index = R"({"metadata": {"total_size": 1}, "weight_map": {)";
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    index += concat(i == 0 ? "" : ", ", "\"", tensors[i].name, "\": \"model-0000", i < half ? 1 : 2, "-of-00002.safetensors\"");
  }
  folder.write("model.safetensors.index.json", index + "}}");
  std::filesystem::remove(folder / "model.safetensors");
  CHECK(same_weights(*load_weights<Tiny>(folder.path()).model, *folder.random.model));

  SUBCASE("a missing shard is named") {
    std::filesystem::remove(folder / "model-00002-of-00002.safetensors");
    CHECK(failure<file_error>(folder).find("model-00002-of-00002.safetensors") == 0);
  }
}

TEST_CASE("a configuration of another model: the first field that differs, what was expected and what was found") {
  const TinyFolder folder(seed);
  const auto with = [&](std::string_view what, std::string_view instead) {
    folder.write("config.json", replaced(std::string(tiny_config), what, instead));
    return failure<config_error>(folder);
  };
  const std::string note = ": the file does not belong to this model type";
  CHECK(with("\"intermediate_size\": 40", "\"intermediate_size\": 44") ==
        "config.json: text_config.intermediate_size: expected 40, found 44" + note);
  CHECK(with("[1, 3]", "[3]") == "config.json: text_config.cross_attention_layers: expected [1, 3], found [3]" + note);
  CHECK(with("[0, 1]", "[0, 3]") == "config.json: vision_config.intermediate_layers_indices: expected [0, 1], found [0, 3]" + note);
  CHECK(with("[[1, 1], [1, 2], [2, 1]]", "[[1, 1], [2, 1]]") ==
        "config.json: vision_config.supported_aspect_ratios: expected [[1, 1], [1, 2], [2, 1]], found [[1, 1], [2, 1]]" + note);
  CHECK(with("\"factor\": 8.0", "\"factor\": 32.0") == "config.json: text_config.rope_scaling.factor: expected 8, found 32" + note);
  CHECK(with("\"image_token_index\": 513", "\"image_token_index\": 514") ==
        "config.json: image_token_index: expected 513, found 514" + note);
  CHECK(with("\"num_global_layers\": 2,", "\"num_global_layers\": 2, \"hidden_act\": \"relu\",") ==
        "config.json: vision_config.hidden_act: expected gelu, found relu" + note);
}

TEST_CASE("the model type of a list that a folder belongs to") {
  const TinyFolder folder(seed);
  std::string name;
  const auto pick = [&]<class M>(std::type_identity<M>) { name = M::name; };
  with_model_of(folder.path(), Models<Llama32Vision11B, Tiny>{}, pick);
  CHECK(name == "tiny");
  const std::string none =
      message<config_error>([&] { with_model_of(folder.path(), Models<Llama32Vision11B, Llama32Vision90B>{}, pick); });
  CHECK(none ==
        concat(folder / "config.json",
               ": expected a model that is built in (llama-3.2-11b-vision-instruct, llama-3.2-90b-vision-instruct), found another"
               ": build the programs with -DMLLAMA_MODELS=",
               folder / "config.json"));
}

TEST_CASE("a save of the text model alone loads, and says so where a picture is given") {
  const TextOnlyFolder folder(seed);
  std::string name;
  with_model_of(folder.path(), Models<Llama32Vision11B, Tiny>{}, [&]<class M>(std::type_identity<M>) { name = M::name; });
  CHECK(name == "tiny");
  const auto loaded = load<Tiny>(folder.path());
  CHECK_FALSE(loaded.model().has_vision());
  CHECK(loaded.weights.files.unused().empty());
  REQUIRE(loaded.tokenizer);
  CHECK_FALSE(loaded.processor);
  const auto decoded = [](const auto& parameter) {
    std::vector<float> values(std::remove_cvref_t<decltype(parameter)>::size);
    parameter.weights.decode(0, values);
    return values;
  };
  const auto &text = loaded.model().language_model, &original = folder.random.model->language_model;
  CHECK(decoded(text.lm_head.weight) == decoded(original.lm_head.weight));
  CHECK(decoded(text.model.layers.cross[1].cross_attn.k_norm.weight) ==
        decoded(original.model.layers.cross[1].cross_attn.k_norm.weight));

  const std::string none = "images: expected none, found at least one: this folder has no vision model, only the language model";
  Context ctx(1);
  CHECK(message<input_error>([&] { static_cast<void>(loaded.encode(gradient(9, 9, 1), ctx)); }) == none);
  RandomPicture<> picture(seed);
  CHECK(message<input_error>([&] { static_cast<void>(loaded.model().encode(picture.tiles(), Tiny::numerics, ctx)); }) == none);

  SUBCASE("tensors of a vision model are left over") {
    save(folder / "model.safetensors", saved_tensors(*folder.random.model));
    CHECK(failure<shape_error>(folder).find("expected only tensors of the model type, found ") != std::string::npos);
  }
  SUBCASE("a configuration with another text") {
    folder.write("config.json", replaced(folder.read("config.json"), "\"intermediate_size\": 40", "\"intermediate_size\": 44"));
    CHECK(failure<config_error>(folder).find("intermediate_size: expected 40, found 44") != std::string::npos);
  }
  SUBCASE("a configuration that wants a vision model, too") {
    folder.write("config.json", tiny_config);
    CHECK(failure<shape_error>(folder).find("vision_model.class_embedding: expected a tensor [12], found none") !=
          std::string::npos);
  }
}

TEST_CASE("every linear is in the format that its tensors have, whatever the configuration says") {
  struct MixedVision : TinyVision {
    using weights = Stored;
  };
  struct MixedText : TinyText {
    using weights = Stored;
    using head_weights = Stored;
  };
  using Mixed = Mllama<MixedVision, MixedText>;
  const TinyFolder folder(seed);
  const FourBitMatrix up(40, 24, 64, true), down(24, 40, 32, false, 7);
  const std::vector<std::int8_t> codes(24 * 24, 5);
  const std::vector<float> scales(24, 2);
  const auto saved = saved_tensors(*folder.random.model);
  std::vector<FileTensor> tensors;
  for (const SavedTensor& tensor : saved) {
    const std::string& name = tensor.name;
    if (name == "language_model.model.layers.0.mlp.up_proj.weight") {
      std::ranges::move(up.tensors(name), std::back_inserter(tensors));
    } else if (name == "language_model.model.layers.0.mlp.down_proj.weight") {
      std::ranges::move(down.tensors(name), std::back_inserter(tensors));
    } else if (name == "language_model.model.layers.0.self_attn.q_proj.weight") {
      tensors.push_back({name, Dtype::I8, {24, 24}, std::as_bytes(std::span(codes))});
      tensors.push_back({"language_model.model.layers.0.self_attn.q_proj.SCB", Dtype::F32, {24}, std::as_bytes(std::span(scales))});
    } else {
      tensors.push_back({name, Dtype::F32, tensor.shape, std::as_bytes(std::span(tensor.values))});
    }
  }
  write_safetensors(folder / "model.safetensors", tensors);
  // The skip list names what is quantised and leaves out what is not; the kind and the type are others.
  const std::string hint =
      R"("quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": true, "bnb_4bit_quant_type": "fp4",
         "llm_int8_skip_modules": ["model.language_model.layers.0.mlp", "q_proj"], "llm_int8_threshold": 5.0}, )";
  SUBCASE("at the top level") {
    folder.write("config.json", replaced(std::string(tiny_config), "\"model_type", hint + "\"model_type"));
  }
  SUBCASE("inside of text_config") {
    folder.write("config.json", replaced(std::string(tiny_config), "\"vocab_size", hint + "\"vocab_size"));
  }
  SUBCASE("none") {}

  const auto loaded = load_weights<Mixed>(folder.path());
  const auto& layer = loaded.model->language_model.model.layers.self[0];
  CHECK(std::holds_alternative<Weights<NF4>>(layer.mlp.up_proj.weight.weights.stored));
  CHECK(std::holds_alternative<Weights<NF4>>(layer.mlp.down_proj.weight.weights.stored));
  CHECK(std::holds_alternative<Weights<Int8>>(layer.self_attn.q_proj.weight.weights.stored));
  CHECK(std::holds_alternative<Weights<F32>>(layer.mlp.gate_proj.weight.weights.stored));
  std::vector<float> values(40 * 24);
  layer.mlp.up_proj.weight.weights.decode(0, values);
  for (std::size_t e = 0; e < values.size(); ++e) CHECK(values[e] == up.element(e));
  layer.mlp.down_proj.weight.weights.decode(0, values);
  for (std::size_t e = 0; e < values.size(); ++e) CHECK(values[e] == down.element(e));
}

TEST_CASE("weights that are not the model's") {
  const TinyFolder folder(seed);
  auto tensors = saved_tensors(*folder.random.model);
  const auto damaged = [&] {
    save(folder / "model.safetensors", tensors);
    return failure<shape_error>(folder);
  };
  const auto at = std::ranges::find(tensors, std::string("language_model.model.norm.weight"), &SavedTensor::name);
  REQUIRE(at != tensors.end());
  SUBCASE("missing") {
    tensors.erase(at);
    CHECK(damaged().find(": norm.weight: expected a tensor [24], found none of this name") != std::string::npos);
  }
  SUBCASE("of another shape") {
    at->shape = {25};
    at->values.push_back(0);
    const std::string text = damaged();
    CHECK(text.find("language_model.model.norm.weight: expected ") != std::string::npos);
    CHECK(text.find("24") < text.find("25"));
  }
  SUBCASE("without a head: a base model") {
    std::erase_if(tensors, [](const SavedTensor& tensor) { return tensor.name == "language_model.lm_head.weight"; });
    CHECK(damaged().ends_with(
        "lm_head.weight: expected the head, which makes logits, found none of this name: a base MllamaModel is saved without it"));
  }
  SUBCASE("left over") {
    tensors.push_back({"language_model.model.layers.5.mlp.up_proj.weight", {1}, {0}});
    const std::string text = damaged();
    CHECK(text.find("layers.5.mlp.up_proj.weight: expected only tensors of the model type, found 1 left over") !=
          std::string::npos);
  }
}

TEST_CASE("parts that a folder may lack, and parts of another model") {
  const TinyFolder folder(seed);
  SUBCASE("no tokenizer and no processor: said when they are needed") {
    std::filesystem::remove(folder / "tokenizer.json");
    std::filesystem::remove(folder / "preprocessor_config.json");
    const auto loaded = load<Tiny>(folder.path());
    CHECK_FALSE(loaded.tokenizer);
    Context ctx(1);
    CHECK(message<file_error>([&] { static_cast<void>(loaded.encode(gradient(9, 9, 1), ctx)); }) ==
          folder / "preprocessor_config.json" + ": expected a file, found none");
  }
  SUBCASE("a tokenizer with ids that the model has not") {
    std::filesystem::copy_file(MLLAMA_TEST_DATA "/golden/tokenizer/large/tokenizer.json", folder / "tokenizer.json",
                               std::filesystem::copy_options::overwrite_existing);
    CHECK(failure<config_error>(folder) == "tokenizer.json: expected at most 521 tokens, found 2255");
  }
  SUBCASE("a processor with other tiles") {
    folder.write("preprocessor_config.json", R"({"size": {"height": 42, "width": 42}, "max_image_tiles": 2})");
    CHECK(failure<config_error>(folder) ==
          "preprocessor_config.json: size: expected 28, found 42: the file does not belong to this model type");
    folder.write("preprocessor_config.json", R"({"size": {"height": 28, "width": 28}})");
    CHECK(failure<config_error>(folder) ==
          "preprocessor_config.json: max_image_tiles: expected 2, found 4: the file does not belong to this model type");
  }
  SUBCASE("a chat template, wherever releases put it") {
    const std::string plain(detail::plain_template);
    SUBCASE("chat_template.jinja") { folder.write("chat_template.jinja", plain); }
    SUBCASE("chat_template.json") { folder.write("chat_template.json", concat("{\"chat_template\": ", python_string(plain), "}")); }
    SUBCASE("tokenizer_config.json") {
      folder.write("tokenizer_config.json", concat("{\"chat_template\": ", python_string(plain), "}"));
    }
    CHECK(load<Tiny>(folder.path()).chat_template == ChatTemplate::plain);
  }
  SUBCASE("no folder") {
    const std::string text = message<file_error>([] { static_cast<void>(load<Tiny>("/nowhere/at/all")); });
    CHECK(text.find("/nowhere/at/all/config.json") == 0);
  }
}
