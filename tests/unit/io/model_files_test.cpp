// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <mllama/io/model_files.hpp>
#include <mllama/io/safetensors_writer.hpp>
#include <random>
#include <string>
#include <vector>

#include "temporary_folder.hpp"

using namespace mllama;
using mllama_test::message;
using mllama_test::TemporaryFolder;

namespace {

constexpr std::array<float, 6> ramp{1, -2, 3, -4, 5, 6};
constexpr std::string_view index_name = "model.safetensors.index.json";

FileTensor f32(std::string name, Shape shape = {2, 3}) {
  std::size_t count = 1;
  for (const std::size_t length : shape) count *= length;
  return {std::move(name), Dtype::F32, std::move(shape), std::as_bytes(std::span(ramp)).first(4 * count)};
}

std::string failure(const std::string& folder) {
  return message<error>([&] { static_cast<void>(ModelFiles::open(folder)); });
}

std::vector<std::string> names(const ModelFiles& files) {
  std::vector<std::string> all;
  for (const ModelTensor& tensor : files.tensors()) all.push_back(tensor.name);
  return all;
}

/// The messages of all faults, without the folder's name.
std::vector<std::string> all_faults(const TemporaryFolder& folder, std::vector<std::string>* found = nullptr) {
  std::vector<Fault> faults;
  const ModelFiles files = ModelFiles::open(folder.path(), &faults);
  if (found != nullptr) *found = names(files);
  std::vector<std::string> messages;
  for (const Fault& fault : faults) {
    std::string text = error(fault).what();
    for (std::size_t at; (at = text.find(folder.path() + "/")) != std::string::npos;) text.erase(at, folder.path().size() + 1);
    messages.push_back(text);
  }
  return messages;
}

}  // namespace

TEST_CASE("every naming layout gives the same names") {
  for (const std::string_view name :
       {"language_model.model.layers.3.mlp.up_proj.weight", "model.language_model.layers.3.mlp.up_proj.weight",
        "model.layers.3.mlp.up_proj.weight", "language_model.layers.3.mlp.up_proj.weight", "layers.3.mlp.up_proj.weight"}) {
    CHECK(canonical_name(name) == "layers.3.mlp.up_proj.weight");
  }
  for (const std::string_view name : {"language_model.lm_head.weight", "lm_head.weight"}) {
    CHECK(canonical_name(name) == "lm_head.weight");
  }
  for (const std::string_view name : {"model.vision_model.class_embedding", "vision_model.class_embedding"}) {
    CHECK(canonical_name(name) == "vision_model.class_embedding");
  }
  for (const std::string_view name : {"model.multi_modal_projector.bias", "multi_modal_projector.bias"}) {
    CHECK(canonical_name(name) == "multi_modal_projector.bias");
  }
  CHECK(canonical_name("model.language_model.norm.weight") == "norm.weight");
  CHECK(canonical_name("models.x") == "models.x");
  CHECK(canonical_name("model") == "model");
  CHECK(canonical_name("").empty());
}

TEST_CASE("tensors are found under their canonical names and read one by one") {
  const TemporaryFolder folder;
  write_safetensors(folder / "model.safetensors",
                    std::vector<FileTensor>{f32("model.b"), f32("language_model.model.a", {3}), f32("model.b.part", {1})});
  ModelFiles opened = ModelFiles::open(folder.path());
  const ModelFiles files = std::move(opened);
  CHECK(files.folder() == folder.path());
  CHECK(names(files) == std::vector<std::string>{"a", "b", "b.part"});
  CHECK(files.mapped_bytes() == 4 * (6 + 3 + 1));
  CHECK(files.find("model.b") == nullptr);
  CHECK(files.with_prefix("b.").size() == 1);
  CHECK(files.with_prefix("b").size() == 2);
  CHECK(files.with_prefix("c").empty());
  const ModelTensor* const b = files.find("b");
  REQUIRE(b != nullptr);
  CHECK(b->stored.tensor->name == "model.b");
  CHECK(b->stored.file == folder / "model.safetensors");
  CHECK(b->shape == Shape{2, 3});
  CHECK(b->bytes() == 24);
  for (int time = 0; time < 2; ++time) {  // memory that was let go comes back from the file
    const TensorBytes bytes = ModelFiles::read(*b);
    CHECK(bytes.bytes().data() == b->stored.tensor->bytes.data());
    CHECK(std::ranges::equal(bytes.bytes(), std::as_bytes(std::span(ramp))));
  }
}

TEST_CASE("the files of a folder: one, else those of an index, else Meta's") {
  const TemporaryFolder folder;
  write_safetensors(folder / "consolidated.safetensors", std::vector<FileTensor>{f32("third")});
  CHECK(names(ModelFiles::open(folder.path())) == std::vector<std::string>{"third"});
  write_safetensors(folder / "one", std::vector<FileTensor>{f32("second")});
  folder.write(index_name, R"({"weight_map": {"second": "one"}})");
  CHECK(names(ModelFiles::open(folder.path())) == std::vector<std::string>{"second"});
  write_safetensors(folder / "model.safetensors", std::vector<FileTensor>{f32("first")});
  CHECK(names(ModelFiles::open(folder.path())) == std::vector<std::string>{"first"});
  folder.write("model.safetensors", "");
  CHECK(failure(folder.path()).find("at least 8 bytes") != std::string::npos);
}

TEST_CASE("a folder without weights is named, and pickled weights are not read") {
  const TemporaryFolder folder;
  const std::string expected = ": expected model.safetensors, model.safetensors.index.json or consolidated.safetensors, found ";
  CHECK(failure(folder.path()) == folder.path() + expected + "none of them");
  CHECK(failure(folder / "none") == folder / "none" + expected + "no such folder");
  for (const char* const name : {"consolidated.00.pth", "consolidated.pth", "pytorch_model.bin", "pytorch_model.bin.index.json"}) {
    const TemporaryFolder pickled;
    pickled.write(name, "PK");
    CHECK(failure(pickled.path()) ==
          concat(pickled.path(), expected,
                 "pickled weights only: convert them to safetensors; unpickling a file runs code that is "
                 "in it"));
  }
}

TEST_CASE("index and shards must agree") {
  const TemporaryFolder folder;
  write_safetensors(folder / "one", std::vector<FileTensor>{f32("a"), f32("b")});
  write_safetensors(folder / "two", std::vector<FileTensor>{f32("model.a"), f32("c")});
  write_safetensors(folder / "three", std::vector<FileTensor>{f32("a")});
  struct Row {
    std::string_view json, part;
  };
  for (const auto& [text, part] : {
           Row{"{}", "weight_map: expected an object"},
           {"[]", "expected an object"},
           {R"({"weight_map": []})", "weight_map: expected an object"},
           {R"({"weight_map": {"a": 1}})", "weight_map.a: expected a string"},
           {R"({"weight_map": {"a": ""}})", "weight_map.a: expected the name of a file in the same folder"},
           {R"({"weight_map": {"a": "."}})", "the name of a file"},
           {R"({"weight_map": {"a": ".."}})", "the name of a file"},
           {R"({"weight_map": {"a": "../one"}})", "the name of a file"},
           {R"({"weight_map": {"a": "/etc/passwd"}})", "the name of a file"},
           {R"({"weight_map": {"a": "x\\one"}})", "the name of a file"},
           {R"({"weight_map": {"a": "one\u0000x"}})", "the name of a file"},
           {R"({"weight_map": {"a": "one", "a": "one"}})", "found \"a\" twice"},
           {R"({"weight_map": {"a": "missing"}})", "missing: cannot open"},
           {R"({"weight_map": {"a": "one"}})", "weight_map.b: expected \"one\", found nothing"},
           {R"({"weight_map": {"a": "one", "b": "one", "d": "one"}})",
            "weight_map.d: expected a file that has this tensor, found \"one\""},
           {R"({"weight_map": {"a": "one", "b": "three"}})", "weight_map.b: expected \"one\", found \"three\""},
           {R"({"weight_map": {"a": "three", "model.a": "two", "c": "two"}})", "names the same tensor as"},
       }) {
    CAPTURE(text);
    folder.write(index_name, text);
    const std::string what = failure(folder.path());
    CAPTURE(what);
    CHECK(what.find(part) != std::string::npos);
  }
  folder.write(index_name, R"({"metadata": {"total_size": 1, "more": []}, "weight_map": {"a": "one", "b": "one"}, "more": 1})");
  CHECK_NOTHROW(static_cast<void>(ModelFiles::open(folder.path())));
  folder.write(index_name, R"({"weight_map": {}})");
  CHECK(ModelFiles::open(folder.path()).tensors().empty());
}

TEST_CASE("a tensor under the names of two layouts is a duplicate, in one file and in two") {
  const TemporaryFolder folder;
  write_safetensors(folder / "model.safetensors",
                    std::vector<FileTensor>{f32("model.layers.0.a"), f32("language_model.model.layers.0.a")});
  CHECK(failure(folder.path()) == concat(folder / "model.safetensors", ": model.layers.0.a: names the same tensor as ",
                                         "language_model.model.layers.0.a of ", folder / "model.safetensors"));
}

TEST_CASE("on demand all faults are listed, and what is left can be used") {
  const TemporaryFolder folder;
  std::vector<std::string> found;
  write_safetensors(folder / "one", std::vector<FileTensor>{f32("a"), f32("b"), f32("model.x"), f32("z")});
  write_safetensors(folder / "two", std::vector<FileTensor>{f32("a"), f32("x")});
  folder.write("three", "1234567");
  folder.write(index_name, R"({"weight_map": {"a": "one", "b": "one", "c": "one", "d": "../four", "e": "five", "f": "three",
                                              "g": 1, "model.x": "one", "x": "two"}})");
  CHECK(all_faults(folder, &found) ==
        std::vector<std::string>{
            "model.safetensors.index.json: weight_map.d: expected the name of a file in the same folder, found \"../four\"",
            "model.safetensors.index.json: weight_map.g: expected a string, found 1",
            "five: cannot open: No such file or directory",
            "model.safetensors.index.json: weight_map.c: expected a file that has this tensor, found \"one\"",
            "model.safetensors.index.json: weight_map.z: expected \"one\", found nothing: the file has a tensor of this name",
            "three: header: expected a safetensors file of at least 8 bytes, found 7 bytes",
            "model.safetensors.index.json: weight_map.a: expected \"two\", found \"one\": the file has a tensor of this name",
            "two: x: names the same tensor as model.x of one",
        });
  CHECK(found == std::vector<std::string>{"a", "b", "x", "z"});
  std::vector<Fault> faults;
  CHECK_FALSE(ModelFiles::open(folder.path(), &faults).complete());  // "five" and "three"
  folder.write(index_name, R"({"weight_map": {"a": "two"}})");
  CHECK(ModelFiles::open(folder.path(), &faults).complete());
  folder.write(index_name, "{");
  CHECK(all_faults(folder) ==
        std::vector<std::string>{"model.safetensors.index.json: byte 1: expected a key, found the end of the text"});
}

TEST_CASE("faults are listed up to a limit") {
  const TemporaryFolder folder;
  std::string map;
  for (int i = 0; i < 3000; ++i) map += concat(i == 0 ? "" : ", ", "\"", i, "\": \"/\"");
  folder.write(index_name, concat(R"({"weight_map": {)", map, "}}"));
  std::vector<Fault> faults;
  CHECK_THROWS_AS(static_cast<void>(ModelFiles::open(folder.path(), &faults)), error);
  CHECK(faults.size() == 1000);
}

TEST_CASE("no mutation of an index does more than throw an error or list faults") {
  const TemporaryFolder folder;
  write_safetensors(folder / "one", std::vector<FileTensor>{f32("a"), f32("b")});
  write_safetensors(folder / "two", std::vector<FileTensor>{f32("c")});
  const std::string valid = R"({"metadata": {"total_size": 72}, "weight_map": {"a": "one", "b": "one", "c": "two"}})";
  const auto seed = std::random_device{}();
  CAPTURE(seed);
  std::mt19937 random(seed);
  for (int round = 0; round < 2000; ++round) {
    std::string mutant = valid;
    for (std::size_t edits = 1 + random() % 3; edits != 0; --edits) {
      mutant[random() % mutant.size()] = "abctwone/.\\{}[]:,\" \xff"[random() % 21];
    }
    folder.write(index_name, mutant);
    const bool refused = failure(folder.path()) != "no exception";
    CHECK(all_faults(folder).empty() != refused);
  }
}
