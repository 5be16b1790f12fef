// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include <mllama/generate/verify.hpp>
#include <unit/io/four_bit_matrix.hpp>

#include "tiny_folder.hpp"

using namespace mllama;
using namespace mllama_test;

namespace doctest {
template <>
struct StringMaker<std::vector<std::string>> {
  static String convert(const std::vector<std::string>& lines) {
    std::string text;
    for (const std::string& line : lines) text += '\n' + line;
    return text.c_str();
  }
};
}  // namespace doctest

namespace {

constexpr std::uint32_t seed = 83;
constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN(), infinity = std::numeric_limits<float>::infinity();

struct StoredTinyVision : TinyVision {
  using weights = Stored;
};
struct StoredTinyText : TinyText {
  using weights = Stored;
  using head_weights = StoredFloat;
};
struct StoredTiny : Mllama<StoredTinyVision, StoredTinyText> {};
using BuiltIn = Models<Llama32Vision11B, StoredTiny>;

/// Lines without the folder's name.
std::vector<std::string> without_folder(std::vector<std::string> lines, const std::string& folder) {
  for (std::string& line : lines) {
    for (const std::string& part : {folder + "/", folder}) {
      for (std::size_t at; (at = line.find(part)) != std::string::npos;) line.erase(at, part.size());
    }
  }
  return lines;
}

struct Found {
  std::vector<std::string> problems, notices;
};
template <class List = BuiltIn>
Found verified(const TemporaryFolder& folder, VerifyDepth depth = VerifyDepth::complete, List models = {}) {
  const Verification found = verify_folder(folder.path(), models, depth);
  return {without_folder(found.problems, folder.path()), without_folder(found.notices, folder.path())};
}

using Lines = std::vector<std::string>;

/// The folder's tensors, for a test to change and to write again.
struct Tensors {
  std::vector<SavedTensor> saved;
  std::vector<FileTensor> more;

  explicit Tensors(const TinyFolder& folder) : saved(saved_tensors(*folder.random.model)) {}
  SavedTensor& at(std::string_view name) { return *std::ranges::find(saved, name, &SavedTensor::name); }
  void erase(std::string_view name) {
    std::erase_if(saved, [&](const SavedTensor& tensor) { return tensor.name == name; });
  }
  void write(const std::string& path) const {
    std::vector<FileTensor> all = more;
    for (const SavedTensor& tensor : saved)
      all.push_back({tensor.name, Dtype::F32, tensor.shape, std::as_bytes(std::span(tensor.values))});
    write_safetensors(path, all);
  }
};

const std::string up = "language_model.model.layers.0.mlp.up_proj.weight";
const std::string q = "language_model.model.layers.0.self_attn.q_proj.weight";

}  // namespace

TEST_CASE("a good folder has no problem, whole or without pictures") {
  const TinyFolder whole(seed);
  const TextOnlyFolder text(seed);
  for (const TinyFolder* const folder : {&whole, static_cast<const TinyFolder*>(&text)}) {
    for (const VerifyDepth depth : {VerifyDepth::quick, VerifyDepth::complete}) {
      const Verification found = verify_folder(folder->path(), BuiltIn{}, depth);
      CHECK(found.problems.empty());
      CHECK(found.notices.empty());
      CHECK(found.tensors == ModelFiles::open(folder->path()).tensors().size());
      CHECK(found.bytes == ModelFiles::open(folder->path()).mapped_bytes());
      CHECK(found.bytes > 1000);
    }
  }
}

TEST_CASE("all problems of the tensors are listed") {
  const TinyFolder folder(seed);
  Tensors tensors(folder);
  tensors.erase("language_model.model.norm.weight");
  tensors.at("language_model.lm_head.weight").shape = {24, 513};
  tensors.at("vision_model.class_embedding").values[3] = not_a_number;
  tensors.at("vision_model.class_embedding").values[4] = -infinity;
  tensors.saved.push_back({"language_model.model.layers.5.mlp.up_proj.weight", {2}, {1, 2}});
  tensors.saved.push_back({"model.vision_model.layernorm_pre.weight", {12}, std::vector<float>(12)});
  tensors.write(folder / "model.safetensors");
  const Lines expected{
      "model.safetensors: vision_model.layernorm_pre.weight: names the same tensor as model.vision_model.layernorm_pre.weight of "
      "model.safetensors",
      ": norm.weight: expected a tensor [24], found none of this name",
      "model.safetensors: language_model.lm_head.weight: expected [513, 24], found F32 [24, 513]",
      "model.safetensors: language_model.model.layers.5.mlp.up_proj.weight: expected only tensors of the model type, found one "
      "that "
      "is left over",
      "model.safetensors: vision_model.class_embedding: expected finite numbers, found 2 of 12 that are NaN or infinite",
  };
  CHECK(verified(folder).problems == expected);
  CHECK(verified(folder, VerifyDepth::quick).problems.size() == 4);
}

TEST_CASE("numbers of every float type are searched, aligned or not") {
  const auto count = [](Dtype dtype, auto... bits) {
    std::string bytes = "x";
    (bytes.append(reinterpret_cast<const char*>(&bits), sizeof bits), ...);
    return detail::count_non_finite(dtype, std::as_bytes(std::span(bytes)).subspan(1));
  };
  using U16 = std::uint16_t;
  CHECK(count(Dtype::F16, U16{0x7c00}, U16{0xfc00}, U16{0x7e01}, U16{0x7bff}, U16{0}) == 3);
  CHECK(count(Dtype::BF16, U16{0x7f80}, U16{0xff80}, U16{0xffc1}, U16{0x7f7f}, U16{0x7c00}) == 3);
  CHECK(count(Dtype::F32, not_a_number, infinity, -infinity, 3e38F, 0.0F) == 3);
  CHECK(count(Dtype::F64, std::numeric_limits<double>::quiet_NaN(), 1e308) == 1);
  CHECK(count(Dtype::U8, std::uint8_t{0xff}) == 0);
}

TEST_CASE("each quantised tensor is checked with all of its parts") {
  const TinyFolder folder(seed);
  Tensors tensors(folder);
  FourBitMatrix matrix(40, 24, 64, false);
  std::vector<std::int8_t> codes(24 * 24, 1);
  std::vector<float> scales(24, 1);
  const auto write = [&](const std::function<void()>& change) {
    tensors.more = matrix.tensors(up);
    tensors.more.push_back({q, Dtype::I8, {24, 24}, std::as_bytes(std::span(codes))});
    tensors.more.push_back({q.substr(0, q.size() - 6) + "SCB", Dtype::F32, {scales.size()}, std::as_bytes(std::span(scales))});
    change();
    tensors.write(folder / "model.safetensors");
  };
  tensors.erase(up);
  tensors.erase(q);
  for (const bool known : {true, false}) {
    CAPTURE(known);
    const auto problems = [&] {
      Lines lines =
          known ? verified(folder).problems : verified(folder, VerifyDepth::complete, Models<Llama32Vision11B>{}).problems;
      std::ranges::sort(lines);
      return lines;
    };
    write([] {});
    CHECK(problems().empty());
    matrix.absmax[1] = not_a_number;
    scales[2] = infinity;
    write([] {});
    CHECK(problems() ==
          Lines{concat("model.safetensors: ", up, ".absmax: expected finite numbers, found NaN or infinity"),
                "model.safetensors: language_model.model.layers.0.self_attn.q_proj.SCB: expected finite numbers, found "
                "NaN or infinity"});
    matrix.absmax[1] = 1;
    scales[2] = 1;
    write([&] { std::erase_if(tensors.more, [](const FileTensor& t) { return t.name.ends_with(".quant_map"); }); });
    CHECK(problems() ==
          Lines{concat("model.safetensors: ", up, ": expected a tensor ", up, ".quant_map, found none of this name")});
    write([&] { std::erase_if(tensors.more, [](const FileTensor& t) { return t.name.ends_with(".SCB"); }); });
    CHECK(problems() ==
          Lines{concat("model.safetensors: ", q,
                       ": expected NF4, FP4, INT8, BF16, F16, F32, NF4x8, found I8 without scales SCB: the model type does not "
                       "take this storage format here")});
    write([&] { std::erase_if(tensors.more, [](const FileTensor& t) { return t.name == up; }); });
    CHECK(problems().size() >= 1);
  }
  matrix.state = R"({"quant_type": "nf4", "blocksize": 64, "dtype": "float16", "shape": null})";
  write([] {});
  CHECK(verified(folder).problems.empty());
  CHECK(verified(folder, VerifyDepth::complete, Models<Llama32Vision11B>{}).problems.empty());
  // Codes that carry the label of a float type may look like NaN.
  std::ranges::fill(matrix.codes, std::uint8_t{0xff});
  write([&] {
    tensors.more[0].dtype = Dtype::BF16;
    tensors.more[0].shape = {240};
  });
  CHECK(verified(folder).problems.empty());
}

TEST_CASE("a model type that is not built in: files and quantised tensors are checked, names and shapes are not") {
  const TinyFolder folder(seed);
  Tensors tensors(folder);
  tensors.erase("language_model.model.norm.weight");
  tensors.write(folder / "model.safetensors");
  const Found found = verified(folder, VerifyDepth::complete, Models<Llama32Vision11B>{});
  CHECK(found.problems.empty());
  CHECK(found.notices == Lines{"config.json: no model type that is built in; names and shapes were not compared"});
  const std::vector<float> scales(4, 1);
  tensors.more.push_back({"model.x.weight.absmax", Dtype::F32, {4}, std::as_bytes(std::span(scales))});
  tensors.write(folder / "model.safetensors");
  CHECK(
      verified(folder, VerifyDepth::complete, Models<Llama32Vision11B>{}).problems ==
      Lines{
          "model.safetensors: model.x.weight.absmax: expected a tensor x.weight beside this part of it, found none of this name"});
}

TEST_CASE("what the configuration says otherwise than the tensors is worth a notice") {
  const TinyFolder folder(seed);
  Tensors tensors(folder);
  const FourBitMatrix matrix(40, 24, 64, true);
  tensors.erase(up);
  tensors.more = matrix.tensors(up);
  tensors.write(folder / "model.safetensors");
  const auto notices = [&](std::string_view settings) {
    folder.write("config.json", replaced(std::string(tiny_config), "\"model_type", concat(settings, "\"model_type")));
    const Found found = verified(folder);
    CHECK(found.problems.empty());
    return found.notices;
  };
  const std::string as = ", as layers.0.mlp.up_proj";
  CHECK(notices("") == Lines{"config.json: no quantization_config, but 1 linear is of 4 bits" + as});
  const auto all_but = [&](std::string_view skip) {
    return concat(R"("quantization_config": {"load_in_4bit": true, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": true,
                     "llm_int8_skip_modules": [)",
                  skip, "]}, ");
  };
  const std::string rest = R"("vision_model", "multi_modal_projector", "self_attn", "cross_attn", "gate_proj", "down_proj",
      "model.language_model.layers.1", "language_model.model.layers.2.mlp", "layers.3.mlp", "model.layers.4.mlp.up_proj")";
  CHECK(notices(all_but(rest)) == Lines{});
  CHECK(notices(all_but(concat(rest, ", \"up_proj\""))) ==
        Lines{"config.json: llm_int8_skip_modules names them, but 1 linear is quantised" + as});
  CHECK(notices(all_but(concat(rest, ", \"model.language_model.layers.0\""))).size() == 1);
  CHECK(notices(all_but(concat(rest, ", \"model.language_model.layers.0.mlp.up\""))).empty());
  const Lines none = notices(all_but(""));
  REQUIRE(none.size() == 1);
  CHECK(none[0].find("llm_int8_skip_modules does not name them, but 6") != std::string::npos);
  CHECK(notices(R"("quantization_config": {"load_in_8bit": true, "llm_int8_skip_modules": ["vision_model", "multi_modal_projector",
                   "layers"]}, )") ==
        Lines{"config.json: load_in_4bit is false, but 1 linear is of 4 bits" + as,
              "config.json: load_in_8bit is true, but no linear is of 8 bits",
              "config.json: bnb_4bit_quant_type is fp4, but 1 linear is NF4" + as,
              "config.json: bnb_4bit_use_double_quant is false, but 1 linear is with nested scales" + as,
              "config.json: llm_int8_skip_modules names them, but 1 linear is quantised" + as});
}

TEST_CASE("the files beside the weights are read, too") {
  const TinyFolder folder(seed);
  folder.write("generation_config.json", R"({"top_p": 7})");
  folder.write("tokenizer.json", "{");
  folder.write("preprocessor_config.json", R"({"size": {"height": 42, "width": 42}, "max_image_tiles": 2})");
  folder.write("chat_template.jinja", "{{ messages }}");
  CHECK(
      verified(folder).problems ==
      Lines{
          "generation_config.json: top_p: expected a number from 0 to 1, found 7",
          "chat_template.jinja: chat_template: expected the template of Llama 3.1, 3.2 or 3.2 Vision Instruct, or the plain one of "
          "transformers' conversion script, found another one: choose a ChatTemplate if one of them will do",
          "tokenizer.json: byte 1: expected a key, found the end of the text",
          "preprocessor_config.json: size: expected 28, found 42: the file does not belong to this model type"});
  folder.write("config.json", "[]");
  const Found found = verified(folder);
  REQUIRE(found.problems.size() == 4);
  CHECK(found.problems[0].starts_with("config.json: "));  // and without its sizes, the tiles are not compared
  CHECK(found.problems[3].starts_with("tokenizer.json: "));
}

TEST_CASE("shards and their index") {
  const TinyFolder folder(seed);
  const auto tensors = saved_tensors(*folder.random.model);
  std::filesystem::remove(folder / "model.safetensors");
  const std::size_t half = tensors.size() / 2;
  save(folder / "one.safetensors", std::span(tensors).first(half));
  save(folder / "two.safetensors", std::span(tensors).subspan(half));
  const auto index = [&](std::size_t from) {
    std::string map;
    for (std::size_t i = from; i < tensors.size(); ++i) {
      map += concat(map.empty() ? "" : ", ", "\"", tensors[i].name, "\": \"", i < half ? "one" : "two", ".safetensors\"");
    }
    folder.write("model.safetensors.index.json", concat(R"({"weight_map": {)", map, "}}"));
  };
  index(0);
  CHECK(verified(folder).problems.empty());
  index(2);
  CHECK(verified(folder).problems.size() == 2);  // and none about tensors, which are there
  index(0);
  folder.write("two.safetensors", folder.read("two.safetensors").substr(0, 2000));
  const Found cut = verified(folder);
  REQUIRE(cut.problems.size() == 1);  // and none about tensors that may be in that file
  CHECK(cut.problems[0].starts_with("two.safetensors: "));
  CHECK(cut.notices == Lines{": tensors that may be in files that cannot be read are not listed"});
  folder.write("model.safetensors", folder.read("one.safetensors"));
  CHECK(verified(folder).notices == Lines{"model.safetensors.index.json: not used, because there is a model.safetensors"});
}

TEST_CASE("no folder, an empty one, and one with too many problems") {
  const TemporaryFolder folder;
  CHECK(verified(folder).problems ==
        Lines{"config.json: cannot open: No such file or directory",
              ": expected model.safetensors, model.safetensors.index.json or consolidated.safetensors, found none of them"});
  std::string map;
  for (int i = 0; i < 3000; ++i) map += concat(i == 0 ? "" : ", ", "\"", i, "\": \"/\"");
  folder.write("model.safetensors.index.json", concat(R"({"weight_map": {)", map, "}}"));
  const Found many = verified(folder);
  CHECK(many.problems.size() == Verification::most_problems);
  CHECK(std::ranges::count(many.notices, "more problems than 1000; the others are not listed") == 1);
}

TEST_CASE("an adapter is said to be one, and its file is checked") {
  const TemporaryFolder folder;
  folder.write("adapter_config.json", R"({"peft_type": "LORA", "base_model_name_or_path": "a/base"})");
  const std::vector<float> values{1, not_a_number};
  write_safetensors(
      folder / "adapter_model.safetensors",
      std::vector<FileTensor>{{"base_model.model.x.lora_A.weight", Dtype::F32, {1, 2}, std::as_bytes(std::span(values))}});
  const Found found = verified(folder, VerifyDepth::quick);
  CHECK(found.problems.empty());
  CHECK(found.notices == Lines{": an adapter of a/base; whether it fits is checked when it is loaded with its base"});
  CHECK(verified(folder).problems ==
        Lines{"adapter_model.safetensors: base_model.model.x.lora_A.weight: expected finite numbers, found 1 of 2 that are NaN or "
              "infinite"});
  folder.write("adapter_config.json", R"({"peft_type": "LORA", "new_field": 1})");
  CHECK(verified(folder, VerifyDepth::quick).notices.back() == "adapter_config.json: new_field: unknown field, ignored");
  folder.write("adapter_config.json", R"({"peft_type": "IA3"})");
  CHECK(verified(folder, VerifyDepth::quick).problems ==
        Lines{"adapter_config.json: peft_type: expected \"LORA\", found \"IA3\": adapters of other kinds are not supported"});
  folder.write("adapter_config.json", R"({"peft_type": "LORA"})");
  std::filesystem::remove(folder / "adapter_model.safetensors");
  CHECK(verified(folder).problems.size() == 1);
}
