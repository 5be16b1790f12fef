// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <map>
#include <mllama/io/config.hpp>
#include <string>
#include <vector>

#include "temporary_folder.hpp"

using namespace mllama;
using mllama_test::message;

namespace {

/// A config.json whose members can be changed: JSON texts.
struct Document {
  std::map<std::string, std::string> root, vision, text;

  [[nodiscard]] std::string json() const {
    auto members = root;
    members.emplace("vision_config", object(vision));
    members.emplace("text_config", object(text));
    return object(members);
  }
  static std::string object(const std::map<std::string, std::string>& members) {
    std::string out = "{";
    for (const auto& [key, value] : members) out += concat(out.size() == 1 ? "" : ", ", '"', key, "\": ", value);
    return out + '}';
  }
};

/// A small model, every field given.
Document small() {
  return {.root = {{"model_type", "\"mllama\""}, {"image_token_index", "40"}},
          .vision = {{"model_type", "\"mllama_vision_model\""},
                     {"hidden_size", "16"},
                     {"attention_heads", "4"},
                     {"intermediate_size", "24"},
                     {"num_hidden_layers", "3"},
                     {"num_global_layers", "2"},
                     {"num_channels", "3"},
                     {"vision_output_dim", "48"},
                     {"image_size", "28"},
                     {"patch_size", "7"},
                     {"max_num_tiles", "2"},
                     {"norm_eps", "1e-6"},
                     {"hidden_act", "\"gelu\""},
                     {"intermediate_layers_indices", "[2, 0]"},
                     {"supported_aspect_ratios", "[[1, 2], [1, 1]]"}},
          .text = {{"model_type", "\"mllama_text_model\""},
                   {"vocab_size", "40"},
                   {"hidden_size", "24"},
                   {"num_attention_heads", "6"},
                   {"num_key_value_heads", "2"},
                   {"intermediate_size", "30"},
                   {"num_hidden_layers", "4"},
                   {"rms_norm_eps", "1e-5"},
                   {"hidden_act", "\"silu\""},
                   {"cross_attention_layers", "[1, 3]"},
                   {"max_position_embeddings", "100"},
                   {"bos_token_id", "1"},
                   {"eos_token_id", "[2, 3]"},
                   {"pad_token_id", "0"},
                   {"rope_theta", "1000.0"},
                   {"rope_scaling", R"({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                                    "original_max_position_embeddings": 64})"}}};
}

ModelSizes sizes_of(const std::string& json) { return model_sizes(parse_json(json, "config.json")); }
ModelSizes sizes_of(const Document& document) { return sizes_of(document.json()); }

/// `small()` with one member set to a JSON text, or without it where the text is empty.
std::string changed(std::string_view section, const std::string& key, const std::string& value) {
  Document document = small();
  if (key == "vision_config" || key == "text_config") {
    std::string json = document.json();
    const std::size_t begin = json.find('{', json.find(key)), end = json.find_last_of('}', json.size() - 2);
    // The vision part is the last member, the text part the one before it.
    json.replace(begin, (key == "vision_config" ? end : json.find(", \"vision_config") - 1) - begin + 1, value);
    return json;
  }
  auto& members = section.empty() ? document.root : section == "text_config" ? document.text : document.vision;
  members.erase(key);
  if (!value.empty()) members.emplace(key, value);
  return document.json();
}

}  // namespace

TEST_CASE("every field is read") {
  const ModelSizes sizes = sizes_of(small());
  CHECK(sizes.image_token == 40);
  REQUIRE(sizes.vision.has_value());
  VisionSizes vision;
  vision = {.hidden = 16,
            .inner = 24,
            .heads = 4,
            .layers = 3,
            .global_layers = 2,
            .channels = 3,
            .output = 48,
            .image_size = 28,
            .patch_size = 7,
            .max_tiles = 2,
            .norm_eps = 1e-6,
            .activation = "gelu",
            .taps = {2, 0},
            .aspect_ratios = {{1, 2}, {1, 1}}};
  CHECK(*sizes.vision == vision);
  TextSizes text;
  text = {.vocab = 40,
          .hidden = 24,
          .inner = 30,
          .heads = 6,
          .kv_heads = 2,
          .layers = 4,
          .max_positions = 100,
          .norm_eps = 1e-5,
          .activation = "silu",
          .cross = {1, 3},
          .rope = {.theta = 1000, .factor = 8, .low_freq_factor = 1, .high_freq_factor = 4, .original_max_position_embeddings = 64},
          .bos = 1,
          .eos = {2, 3},
          .pad = 0};
  CHECK(sizes.text == text);
}

TEST_CASE("absent fields have the library's defaults") {
  const ModelSizes sizes = sizes_of(R"({"model_type": "mllama", "vision_config": {}})");
  CHECK(sizes.text == TextSizes{});
  CHECK(*sizes.vision == VisionSizes{});
  CHECK(sizes.image_token == 128256);
}

TEST_CASE("a text model alone has no vision part") {
  const ModelSizes sizes = sizes_of(Document::object(small().text));
  CHECK_FALSE(sizes.vision.has_value());
  CHECK(sizes.text == sizes_of(small()).text);
}

TEST_CASE("how bitsandbytes was asked to quantise, at the top level or inside of text_config") {
  CHECK(sizes_of(small()).quantization == QuantizationSettings{});
  CHECK(QuantizationSettings{}.int8_threshold == 6);
  const std::string four = R"({"quant_method": "bitsandbytes", "load_in_4bit": true, "load_in_8bit": false,
    "_load_in_4bit": true, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": true, "bnb_4bit_compute_dtype": "bfloat16",
    "bnb_4bit_quant_storage": "uint8", "llm_int8_enable_fp32_cpu_offload": false, "llm_int8_threshold": 4.5,
    "llm_int8_skip_modules": ["lm_head", "multi_modal_projector"]})";
  const QuantizationSettings expected{.method = "bitsandbytes",
                                      .four_bit = true,
                                      .type = "nf4",
                                      .nested = true,
                                      .int8_threshold = 4.5,
                                      .skip_modules = {"lm_head", "multi_modal_projector"}};
  CHECK(sizes_of(changed("", "quantization_config", four)).quantization == expected);
  CHECK(sizes_of(changed("text_config", "quantization_config", four)).quantization == expected);
  Document both = small();
  both.root["quantization_config"] = R"({"load_in_8bit": true, "llm_int8_threshold": 0})";
  both.text["quantization_config"] = four;
  CHECK(sizes_of(both).quantization == QuantizationSettings{.method = "bitsandbytes", .eight_bit = true, .int8_threshold = 0});
  CHECK(sizes_of(changed("", "quantization_config", R"({"llm_int8_skip_modules": null})")).quantization.int8_threshold == 6);
  CHECK(sizes_of(changed("", "quantization_config", "null")).quantization == QuantizationSettings{});
  std::string names = "\"\"";  // each is compared with each linear
  for (int i = 0; i < 2048; ++i) names += ", \"\"";
  CHECK_THROWS_AS(sizes_of(changed("", "quantization_config", concat(R"({"llm_int8_skip_modules": [)", names, "]}"))),
                  format_error);
  // A text model alone has the block at its top level, too.
  Document text = small();
  text.text["quantization_config"] = four;
  CHECK(sizes_of(Document::object(text.text)).quantization == expected);
}

TEST_CASE("both spellings of a field are read") {
  const ModelSizes expected = sizes_of(small());
  Document document = small();
  document.vision["num_attention_heads"] = "4";
  CHECK(sizes_of(document).vision == expected.vision);
  document.vision.erase("attention_heads");
  CHECK(sizes_of(document).vision == expected.vision);

  auto& text = document.text;
  std::string& rope = text["rope_parameters"] = text["rope_scaling"];
  rope.insert(1, concat("\"rope_theta\": ", text["rope_theta"], ", "));
  text.erase("rope_scaling");
  text.erase("rope_theta");
  CHECK(sizes_of(document).text == expected.text);
  rope.replace(rope.find("rope_type"), std::string_view("rope_type").size(), "type");
  CHECK(sizes_of(document).text == expected.text);

  document.root["image_token_id"] = "40";
  CHECK(sizes_of(document).image_token == 40);
  document.root.erase("image_token_index");
  CHECK(sizes_of(document).image_token == 40);
  text["eos_token_id"] = "7";
  CHECK(sizes_of(document).text.eos == std::vector<std::int32_t>{7});
  text["cross_attention_layers"] = "[3, 1]";
  CHECK(sizes_of(document).text.cross == std::vector<int>{1, 3});
  text["hidden_act"] = "\"gelu_new\"";
  CHECK(sizes_of(document).text.activation == "gelu_pytorch_tanh");
}

TEST_CASE("the rotary embedding is plain unless the file says otherwise") {
  const RopeSizes plain{
      .theta = 1000, .factor = 1, .low_freq_factor = 1, .high_freq_factor = 4, .original_max_position_embeddings = 8192};
  CHECK(sizes_of(changed("text_config", "rope_scaling", "")).text.rope == plain);
  CHECK(sizes_of(changed("text_config", "rope_scaling", "null")).text.rope == plain);
  CHECK(sizes_of(changed("text_config", "rope_scaling", R"({"rope_type": "default", "factor": 9})")).text.rope == plain);
  CHECK(sizes_of(changed("text_config", "rope_parameters", R"({"rope_theta": 7})")).text.rope.theta == 7);
  CHECK(sizes_of(changed("text_config", "rope_theta", "")).text.rope.theta == 500000);
}

TEST_CASE("what no Mllama can be is rejected by field, expected and found") {
  struct Row {
    const char *section, *key, *value, *part;
  };
  const Row rows[] = {
      {"", "model_type", "", "model_type: expected a string, found nothing"},
      {"", "model_type", "\"llava\"", R"(model_type: expected "mllama", "mllama_text_model" or "llama", found "llava")"},
      {"", "vision_config", "[]", "vision_config: expected an object, found []"},
      {"", "text_config", "7", "text_config: expected an object, found 7"},
      {"", "image_token_index", "48", "image_token_index: expected a row of the embedding, 0 to 47, found 48"},
      {"", "image_token_index", "-1", "found -1"},
      {"", "image_token_id", "41", "image_token_index: expected the same as image_token_id, 41, found 40"},
      {"", "quantization_config", R"({"quant_method": "gptq"})",
       R"(quantization_config.quant_method: expected "bitsandbytes", found "gptq")"},
      {"text_config", "quantization_config", R"({"quant_method": "gptq"})",
       R"(text_config.quantization_config.quant_method: expected "bitsandbytes", found "gptq")"},
      {"", "quantization_config", "4", "quantization_config: expected an object, found 4"},
      {"", "quantization_config", R"({"load_in_4bit": 1})", "quantization_config.load_in_4bit: expected true or false, found 1"},
      {"", "quantization_config", R"({"llm_int8_threshold": -1})",
       "quantization_config.llm_int8_threshold: expected a number from 0 on, found -1"},
      {"", "quantization_config", R"({"llm_int8_threshold": 1e999})",
       "quantization_config.llm_int8_threshold: expected a number in the range of double"},
      {"", "quantization_config", R"({"llm_int8_threshold": "6"})", "quantization_config.llm_int8_threshold: expected a number"},
      {"", "quantization_config", R"({"llm_int8_skip_modules": "lm_head"})",
       "quantization_config.llm_int8_skip_modules: expected an array"},
      {"", "quantization_config", R"({"llm_int8_skip_modules": [1]})",
       "quantization_config.llm_int8_skip_modules[0]: expected a string"},
      {"vision_config", "model_type", "\"clip\"", "vision_config.model_type: expected \"mllama_vision_model\", found \"clip\""},
      {"vision_config", "hidden_size", "0", "vision_config.hidden_size: expected an integer from 1 to 1048576, found 0"},
      {"vision_config", "hidden_size", "-16", "found -16"},
      {"vision_config", "hidden_size", "16.0", "found 16.0"},
      {"vision_config", "hidden_size", "\"16\"", "found \"16\""},
      {"vision_config", "hidden_size", "4294967312", "found 4294967312"},
      {"vision_config", "hidden_size", "18", "vision_config.hidden_size: expected a multiple of attention_heads, 4, found 18"},
      {"vision_config", "num_attention_heads", "2",
       "vision_config.attention_heads: expected the same as vision_config.num_attention_heads, 2"},
      {"vision_config", "num_hidden_layers", "1000", "found 1000"},
      {"vision_config", "num_hidden_layers", "1", "intermediate_layers_indices[0]: expected an integer from 0 to 1, found 2"},
      {"vision_config", "image_size", "30", "vision_config.image_size: expected a multiple of patch_size, 7, found 30"},
      {"vision_config", "patch_size", "56", "vision_config.image_size: expected a multiple of patch_size, 56, found 28"},
      {"vision_config", "vision_output_dim", "64", "vision_config.vision_output_dim: expected 48, hidden_size times"},
      {"vision_config", "norm_eps", "0", "vision_config.norm_eps: expected a number above 0"},
      {"vision_config", "norm_eps", "\"1e-5\"", "vision_config.norm_eps: expected a number, found \"1e-5\""},
      {"vision_config", "hidden_act", "\"mish\"", "vision_config.hidden_act: expected gelu"},
      {"vision_config", "intermediate_layers_indices", "[]",
       "vision_config.intermediate_layers_indices: expected 1 to 1000 layers"},
      {"vision_config", "intermediate_layers_indices", "[-1]", "found -1"},
      {"vision_config", "intermediate_layers_indices", "2", "expected an array, found 2"},
      {"vision_config", "intermediate_layers_indices", "",
       "intermediate_layers_indices: expected layers up to num_hidden_layers, 3, found 30"},
      {"vision_config", "supported_aspect_ratios", "",
       "supported_aspect_ratios: expected a list, found nothing: there is a default for 4 tiles only"},
      {"vision_config", "supported_aspect_ratios", "[]", "expected 1 to 10000 ratios"},
      {"vision_config", "supported_aspect_ratios", "[[1, 1, 1]]", "supported_aspect_ratios[0]: expected two numbers"},
      {"vision_config", "supported_aspect_ratios", "[[1, 0]]", "supported_aspect_ratios[0][1]: expected an integer from 1"},
      {"vision_config", "supported_aspect_ratios", "[1]", "supported_aspect_ratios[0]: expected an array"},
      {"text_config", "model_type", "\"llama\"", "text_config.model_type: expected \"mllama_text_model\""},
      {"text_config", "vocab_size", "99999999", "text_config.vocab_size: expected an integer from 1 to 16777216"},
      {"text_config", "hidden_size", "25", "text_config.hidden_size: expected a multiple of num_attention_heads, 6, found 25"},
      {"text_config", "hidden_size", "18", "expected an even number of features per head, for the rotary embedding, found 3"},
      {"text_config", "num_key_value_heads", "4",
       "text_config.num_attention_heads: expected a multiple of num_key_value_heads, 4, found 6"},
      {"text_config", "tie_word_embeddings", "true", "text_config.tie_word_embeddings: expected false, found true"},
      {"text_config", "cross_attention_layers", "[4]",
       "text_config.cross_attention_layers[0]: expected an integer from 0 to 3, found 4"},
      {"text_config", "cross_attention_layers", "[1, 1]", "text_config.cross_attention_layers: expected every layer once"},
      {"text_config", "cross_attention_layers", "[0, 1, 2, 3]", "expected at least one layer that is not in it"},
      {"text_config", "cross_attention_layers", "", "cross_attention_layers: expected layers below num_hidden_layers, 4, found 38"},
      {"text_config", "eos_token_id", "[1, -2]", "text_config.eos_token_id[1]: expected an integer from 0"},
      {"text_config", "eos_token_id", "\"</s>\"", "text_config.eos_token_id: expected an integer"},
      {"text_config", "rope_theta", "1", "text_config.rope_theta: expected a number above 1"},
      {"text_config", "rope_scaling", "[]", "text_config.rope_scaling: expected an object"},
      {"text_config", "rope_scaling", R"({"type": "yarn"})",
       R"(text_config.rope_scaling.type: expected "default" or "llama3", found "yarn")"},
      {"text_config", "rope_scaling", R"({"type": "llama3"})", "text_config.rope_scaling.factor: expected a number, found nothing"},
      {"text_config", "rope_scaling", R"({"type": "llama3", "factor": 0})",
       "text_config.rope_scaling.factor: expected a number above 0"},
      {"text_config", "rope_scaling", R"({"type": "llama3", "factor": 2, "low_freq_factor": 4, "high_freq_factor": 4})",
       "text_config.rope_scaling.high_freq_factor: expected a number above low_freq_factor, 4"},
      {"text_config", "rope_scaling", R"({"type": "llama3", "factor": 2, "low_freq_factor": 1, "high_freq_factor": 4})",
       "text_config.rope_scaling.original_max_position_embeddings: expected an integer from 1"},
  };
  for (const Row& row : rows) {
    CAPTURE(row.section);
    CAPTURE(row.key);
    CAPTURE(row.value);
    const std::string what = message<error>([&] { static_cast<void>(sizes_of(changed(row.section, row.key, row.value))); });
    CAPTURE(what);
    CHECK(what.starts_with("config.json: "));
    CHECK(what.find(row.part) != std::string::npos);
  }
}

TEST_CASE("Llama alone") {
  const auto read = [](std::string_view members) { return sizes_of(concat(R"({"model_type": "llama")", members, '}')); };
  const ModelSizes defaults = read("");
  CHECK_FALSE(defaults.vision.has_value());
  CHECK(defaults.text == TextSizes{.vocab = 32000,
                                   .extra_embeddings = 0,
                                   .inner = 11008,
                                   .kv_heads = 32,
                                   .layers = 32,
                                   .max_positions = 2048,
                                   .norm_eps = 1e-6,
                                   .cross = {},
                                   .rope = {.theta = 10000},
                                   .bos = 1,
                                   .eos = {2},
                                   .pad = {}});
  const TextSizes small = read(R"(, "hidden_size": 64, "num_attention_heads": 4, "head_dim": 16, "tie_word_embeddings": true,
      "rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
      "original_max_position_embeddings": 8192})")
                              .text;
  CHECK((small.tied_head && small.kv_heads == 4 && small.rope.factor == 32 && small.rope.theta == 500000));
  CHECK(read(R"(, "rope_scaling": null)").text.rope.factor == 1);
  for (const auto& [members, part] : {
           std::pair<std::string_view, std::string_view>{R"(, "head_dim": 64)",
                                                         "head_dim: expected hidden_size / num_attention_heads, 128"},
           {R"(, "attention_bias": true)", "attention_bias: expected false"},
           {R"(, "mlp_bias": true)", "mlp_bias: expected false"},
           {R"(, "num_key_value_heads": 5)", "num_attention_heads: expected a multiple of num_key_value_heads, 5"},
           {R"(, "rope_scaling": {"rope_type": "yarn"})", "rope_type: expected \"default\" or \"llama3\""},
           {R"(, "tie_word_embeddings": 1)", "tie_word_embeddings: expected true or false"},
       }) {
    CAPTURE(members);
    CHECK(message<error>([&] { read(members); }).find(part) != std::string::npos);
  }
}

TEST_CASE("SigLIP's vision model") {
  Document document = small();
  document.vision = {{"model_type", "\"siglip_vision_model\""}, {"hidden_size", "36"}, {"layer_norm_eps", "1e-5"}};
  const VisionSizes sizes = *sizes_of(document).vision;
  CHECK((sizes.hidden == 36 && sizes.output == 36 && sizes.taps.empty() && sizes.max_tiles == 1 && sizes.global_layers == 0));
  CHECK((sizes.image_size == 224 && sizes.patch_size == 16 && sizes.norm_eps == 1e-5 && sizes.activation == "gelu_pytorch_tanh"));
  document.vision["num_attention_heads"] = "5";
  CHECK(message<config_error>([&] { sizes_of(document); }).find("hidden_size: expected a multiple of") != std::string::npos);
}

TEST_CASE("a table of positions that no int can index is rejected") {
  Document document = small();
  document.vision["image_size"] = "16384";
  document.vision["patch_size"] = "1";
  CHECK(message<config_error>([&] { static_cast<void>(sizes_of(document)); }) ==
        "config.json: vision_config: expected fewer than 2^31 features in all positions of all tiles, found 536870914 x 16");
}

TEST_CASE("generation settings") {
  const mllama_test::TemporaryFolder folder;
  const TextSizes text = sizes_of(small()).text;
  const GenerationSettings defaults = read_generation_settings(folder.path(), text);
  CHECK_FALSE(defaults.do_sample);
  CHECK((defaults.temperature == 1 && defaults.top_k == 50 && defaults.top_p == 1 && defaults.min_p == 0));
  CHECK((defaults.repetition_penalty == 1 && !defaults.max_new_tokens && !defaults.max_length));
  CHECK((defaults.eos == text.eos && defaults.pad == 0 && defaults.bos == 1));

  const auto read = [&](std::string_view content) {
    folder.write("generation_config.json", content);
    return read_generation_settings(folder.path(), text);
  };
  const GenerationSettings instruct = read(R"({"bos_token_id": 128000, "do_sample": true, "eos_token_id": [128001, 128008, 128009],
    "pad_token_id": 128004, "temperature": 0.6, "top_p": 0.9, "transformers_version": "4.45.0.dev0"})");
  CHECK(instruct.do_sample);
  CHECK((instruct.temperature == 0.6 && instruct.top_k == 50 && instruct.top_p == 0.9));
  CHECK((instruct.bos == 128000 && instruct.pad == 128004));
  CHECK(instruct.eos == std::vector<std::int32_t>{128001, 128008, 128009});
  const GenerationSettings more = read(
      R"({"eos_token_id": 2, "top_k": 0, "min_p": 0.1, "repetition_penalty": 1.2, "max_new_tokens": 8,
               "max_length": 99, "top_p": null})");
  CHECK((more.eos == std::vector<std::int32_t>{2} && more.top_k == 0 && more.min_p == 0.1 && more.repetition_penalty == 1.2));
  CHECK((more.max_new_tokens == 8 && more.max_length == 99 && more.top_p == 1));
  CHECK(read(R"({"top_k": null})").top_k == 0);
  CHECK(read("{}").eos.empty());

  for (const auto& [content, part] : {
           std::pair<std::string_view, std::string_view>{"", "byte 0: expected a value"},
           {"[]", "expected an object"},
           {R"({"temperature": -1})", "temperature: expected a number from 0"},
           {R"({"temperature": 0, "do_sample": true})", "temperature: expected a number above 0"},
           {R"({"temperature": 1e-46, "do_sample": true})", "temperature: expected a number above 0"},
           {R"({"top_p": 1.5})", "top_p: expected a number from 0 to 1"},
           {R"({"min_p": -0.5})", "min_p: expected a number from 0 to 1"},
           {R"({"top_k": -1})", "top_k: expected an integer from 0"},
           {R"({"top_k": 5.0})", "top_k: expected an integer from 0"},
           {R"({"repetition_penalty": 0})", "repetition_penalty: expected a number from"},
           {R"({"do_sample": "yes"})", "do_sample: expected true or false"},
           {R"({"max_new_tokens": 99999999999})", "max_new_tokens: expected an integer"},
           {R"({"eos_token_id": {}})", "eos_token_id: expected an integer"},
       }) {
    CAPTURE(content);
    CHECK(message<error>([&] { read(content); }).find(part) != std::string::npos);
  }
}

TEST_CASE("folders that transformers has saved") {
  const std::string models = std::string(MLLAMA_TEST_DATA) + "/golden/models/";
  for (const char* name :
       {"appendix_a", "bf16", "nf4_mixed", "nf4_nested", "nf4_plain", "odd", "one_tile", "ratios", "three_tiles"}) {
    CAPTURE(name);
    const ModelSizes sizes = read_model_sizes(models + name);
    CHECK(sizes.vision.has_value());
    CHECK(sizes.file == models + name + "/config.json");
    CHECK(read_generation_settings(models + name, sizes.text).eos == sizes.text.eos);
  }
  const ModelSizes odd = read_model_sizes(models + "odd");
  CHECK(
      odd.text.rope ==
      RopeSizes{.theta = 1000, .factor = 4, .low_freq_factor = 1.5, .high_freq_factor = 3, .original_max_position_embeddings = 64});
  CHECK(odd.vision->aspect_ratios == std::vector<std::array<int, 2>>{{1, 2}, {1, 1}, {2, 1}});
  CHECK(odd.vision->taps == std::vector<int>{2, 0});
  CHECK(message<file_error>([&] { static_cast<void>(read_model_sizes(models + "none")); }).find("cannot open") !=
        std::string::npos);
}
