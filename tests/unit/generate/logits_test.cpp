// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <string>
#include <vector>

#include <mllama/generate/logits.hpp>
#include <mllama/io/safetensors_writer.hpp>
#include <unit/io/temporary_folder.hpp>

#include "padded_prompt.hpp"

using namespace mllama;
using namespace mllama_test;

namespace {

constexpr std::uint32_t seed = 71;

/// A file of inputs, one tensor after the other.
struct Inputs {
  struct Entry {
    std::string name;
    Dtype dtype;
    std::vector<std::size_t> shape;
    std::vector<std::byte> bytes;
  };
  std::vector<Entry> entries;

  template <class T>
  Inputs& with(std::string name, Dtype dtype, std::vector<std::size_t> shape, const std::vector<T>& values) {
    const auto bytes = std::as_bytes(std::span(values));
    entries.push_back({std::move(name), dtype, std::move(shape), {bytes.begin(), bytes.end()}});
    return *this;
  }
  Inputs& ids(std::string name, std::vector<std::size_t> shape, const std::vector<std::int64_t>& values) {
    return with(std::move(name), Dtype::I64, std::move(shape), values);
  }
  [[nodiscard]] std::string write(const TemporaryFolder& folder) const {
    std::vector<FileTensor> tensors;
    for (const Entry& entry : entries) tensors.push_back({entry.name, entry.dtype, entry.shape, entry.bytes});
    write_safetensors(folder / "inputs.safetensors", tensors);
    return folder / "inputs.safetensors";
  }
};

Inputs all_inputs(const PaddedPrompt& p) {
  constexpr std::size_t tiles = TinyVision::tiles, side = TinyVision::image;
  Inputs inputs;
  inputs.ids("input_ids", {p.batch, p.length}, p.input_ids).ids("attention_mask", {p.batch, p.length}, p.attention_mask);
  if (p.images == 0) return inputs;
  return inputs.with("pixel_values", Dtype::F32, {p.batch, p.images, tiles, 3, side, side}, p.pixel_values)
      .ids("aspect_ratio_ids", {p.batch, p.images}, p.aspect_ratio_ids)
      .ids("aspect_ratio_mask", {p.batch, p.images, tiles}, p.aspect_ratio_mask)
      .ids("cross_attention_mask", {p.batch, p.length, p.images, tiles}, p.cross_attention_mask);
}

std::vector<std::string> names(const std::vector<NamedTensor>& outputs) {
  std::vector<std::string> result;
  for (const NamedTensor& output : outputs) result.push_back(output.name);
  std::ranges::sort(result);
  return result;
}

const NamedTensor& output(const std::vector<NamedTensor>& outputs, std::string_view name) {
  return *std::ranges::find(outputs, name, &NamedTensor::name);
}

}  // namespace

TEST_CASE("named outputs of a file of inputs") {
  const TemporaryFolder folder;
  const auto random = random_weights<Tiny>(seed);
  RandomPicture<> picture(seed);

  SUBCASE("text and picture") {
    const PaddedPrompt prompt({{4, image, 5}}, {&picture});
    const InputFile file(all_inputs(prompt).ids("decode_input_ids", {1, 2}, {6, 7}).write(folder));
    const auto outputs = run_logits(*random.model, file, Tiny::numerics, 1);
    CHECK(names(outputs) == std::vector<std::string>{"cross_attention_states", "decode_logits", "hidden_states.0",
                                                     "hidden_states.1", "hidden_states.2", "hidden_states.3", "hidden_states.4",
                                                     "hidden_states.5", "logits", "vision_output"});
    CHECK(output(outputs, "logits").shape == Shape{1, 3, 513});
    CHECK(output(outputs, "decode_logits").shape == Shape{1, 2, 513});
    CHECK(output(outputs, "hidden_states.2").shape == Shape{1, 3, 24});
    CHECK(output(outputs, "vision_output").shape == Shape{1, 1, 2, 5, 36});
    CHECK(output(outputs, "cross_attention_states").shape == Shape{1, 1, 2, 5, 24});
    for (const NamedTensor& tensor : outputs) {
      std::size_t size = 1;
      for (const std::size_t length : tensor.shape) size *= length;
      CHECK(tensor.values.size() == size);
    }
  }
  SUBCASE("text alone has no states of the layers that it skips; rows of padding are 0") {
    const InputFile file(all_inputs(PaddedPrompt({{4, 5, 6}, {7}})).write(folder));
    const auto outputs = run_logits(*random.model, file, Tiny::numerics, 1);
    CHECK(names(outputs) ==
          std::vector<std::string>{"hidden_states.0", "hidden_states.1", "hidden_states.3", "hidden_states.5", "logits"});
    const auto& states = output(outputs, "hidden_states.5").values;
    CHECK(std::ranges::all_of(std::span(states).last(2 * 24), [](float value) { return value == 0; }));
    CHECK(states[3 * 24] != 0);
  }
  SUBCASE("other tensors are refused, or ignored for whoever reads them") {
    Inputs inputs = all_inputs(PaddedPrompt({{4, 5, 6}})).with("norm", Dtype::F32, {2}, std::vector<float>{1, 2});
    const std::string path = inputs.write(folder);
    CHECK(refused([&] { InputFile{path}; }).field == "norm");
    const InputFile file(path, InputFile::OtherTensors::ignored);
    CHECK(file.inputs().length == 3);
    CHECK(file.file().find("norm") != nullptr);
  }
  SUBCASE("a picture alone") {
    Inputs inputs = all_inputs(PaddedPrompt({{image}}, {&picture}));
    std::erase_if(inputs.entries, [](const Inputs::Entry& entry) {
      return entry.name == "input_ids" || entry.name == "attention_mask" || entry.name == "cross_attention_mask";
    });
    const auto outputs = run_logits(*random.model, InputFile(inputs.write(folder)), Tiny::numerics, 1);
    CHECK(names(outputs) == std::vector<std::string>{"cross_attention_states", "vision_output"});
  }
  SUBCASE("integers and pixels of other types are the same numbers") {
    const PaddedPrompt prompt({{4, image, 5}}, {&picture});
    const auto expected = run_logits(*random.model, InputFile(all_inputs(prompt).write(folder)), Tiny::numerics, 1);
    Inputs inputs = all_inputs(prompt);
    for (auto& entry : inputs.entries) {
      if (entry.dtype != Dtype::I64) continue;
      std::vector<std::int64_t> wide(entry.bytes.size() / 8);
      std::memcpy(wide.data(), entry.bytes.data(), entry.bytes.size());
      if (entry.name == "input_ids") {
        const std::vector<std::int32_t> narrow(wide.begin(), wide.end());
        const auto bytes = std::as_bytes(std::span(narrow));
        entry.dtype = Dtype::I32;
        entry.bytes.assign(bytes.begin(), bytes.end());
      } else {
        entry.dtype = entry.name == "attention_mask" ? Dtype::BOOL : Dtype::U8;
        entry.bytes.clear();
        for (const std::int64_t value : wide) entry.bytes.push_back(static_cast<std::byte>(value));
      }
    }
    const auto outputs = run_logits(*random.model, InputFile(inputs.write(folder)), Tiny::numerics, 1);
    CHECK(output(outputs, "logits").values == output(expected, "logits").values);
  }
}

TEST_CASE("files that are no inputs") {
  const TemporaryFolder folder;
  const auto problem = [&](const Inputs& inputs) {
    const std::string text = message<input_error>([&] { static_cast<void>(InputFile(inputs.write(folder))); });
    return text.substr(text.find(": ") + 2);
  };
  CHECK(problem(Inputs{}.ids("inputs", {1, 1}, {4})) == "inputs: expected one of the model's inputs, found another name");
  CHECK(problem(Inputs{}.ids("input_ids", {2}, {4, 5})) == "input_ids: expected integers with 2 axes, found I64 [2]");
  CHECK(problem(Inputs{}.with("input_ids", Dtype::F32, {1, 1}, std::vector<float>{4})) ==
        "input_ids: expected I64, I32, U8 or BOOL, found F32 [1, 1]");
  CHECK(problem(Inputs{}.ids("input_ids", {1, 1}, {4}).ids("attention_mask", {2, 1}, {1, 1})) ==
        "input_ids: expected 2 rows, found 1");
  CHECK(problem(Inputs{}.ids("attention_mask", {1, 1}, {1})) == "expected input_ids or pixel_values, found neither");
  CHECK(problem(Inputs{}.with("pixel_values", Dtype::F32, {1, 1}, std::vector<float>{4})) ==
        "pixel_values: expected numbers with 6 axes, found F32 [1, 1]");
  CHECK(problem(Inputs{}.ids("input_ids", {std::size_t{1} << 30, 0}, {})) ==
        "input_ids: expected at least one element, found I64 [1073741824, 0]");
}

TEST_CASE("pixels in another order are refused, not misread") {
  const TemporaryFolder folder;
  const auto random = random_weights<Tiny>(seed);
  RandomPicture<> picture(seed);
  Inputs inputs = all_inputs(PaddedPrompt({{image, 5}}, {&picture}));
  for (auto& entry : inputs.entries) {
    if (entry.name == "pixel_values") entry.shape = {1, 1, 2, 28, 28, 3};
  }
  const InputFile file(inputs.write(folder));
  CHECK(message<input_error>([&] { static_cast<void>(run_logits(*random.model, file, Tiny::numerics, 1)); }) ==
        folder / "inputs.safetensors: pixel_values: expected [1, 1, 2, 3, 28, 28], found F32 [1, 1, 2, 28, 28, 3]");
}

TEST_CASE("pixels for a model without its vision part are refused, whatever their shape") {
  const TemporaryFolder folder;
  const auto random = random_weights<Tiny>(seed);
  Tiny text_only;
  text_only.language_model = random.model->language_model;
  RandomPicture<> picture(seed);
  for (const bool alone : {false, true}) {
    Inputs inputs = all_inputs(PaddedPrompt({{image, 5}}, {&picture}));
    std::erase_if(inputs.entries, [&](const Inputs::Entry& entry) { return alone && entry.name != "pixel_values"; });
    for (auto& entry : inputs.entries) {
      if (entry.name == "pixel_values") entry.shape = {1, 1, 2, 28, 28, 3};
    }
    const InputFile file(inputs.write(folder));
    CHECK(message<input_error>([&] { static_cast<void>(run_logits(text_only, file, Tiny::numerics, 1)); }) ==
          "pixel_values: expected none, found at least one: this folder has no vision model, only the language model");
  }
}
