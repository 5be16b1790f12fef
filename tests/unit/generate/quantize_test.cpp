// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <csignal>
#include <fstream>
#include <limits>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include <mllama/generate/quantize.hpp>
#include <mllama/io/image.hpp>  // for its CRC-32
#include <mllama/io/safetensors_writer.hpp>

#include "tiny_folder.hpp"

using namespace mllama;
using namespace mllama_test;

namespace {

constexpr std::uint32_t seed = 71;
const std::string models = MLLAMA_TEST_DATA "/golden/models/";

std::string crc(const std::string& text) {
  mllama::detail::Crc32 sum;
  sum.add(std::as_bytes(std::span(text)));
  std::string digits;
  for (int shift = 28; shift >= 0; shift -= 4) digits += "0123456789abcdef"[sum.value() >> shift & 15U];
  return digits;
}

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  std::istringstream in(text);
  for (std::string part; std::getline(in, part, separator);) parts.push_back(part);
  return parts;
}

std::vector<QuantizationError> quantize(const std::string& from, const std::string& to, QuantizeOptions options) {
  Quantizer quantizer(from, to, std::move(options));
  std::size_t done = 0;
  auto errors = quantizer.run([&] { ++done; });
  CHECK(done == quantizer.size());
  return errors;
}

QuantizeOptions format(std::string name, bool nested = false) { return {.format = std::move(name), .nested = nested}; }

/// Element types of the tensors of a folder that have this ending, by what stands before it.
std::map<std::string, Dtype> dtypes(const std::string& folder, std::string_view ending) {
  const Safetensors file(folder + "/model.safetensors");
  std::map<std::string, Dtype> found;
  for (const FileTensor& tensor : file.tensors()) {
    if (tensor.name.ends_with(ending)) found[tensor.name.substr(0, tensor.name.size() - ending.size())] = tensor.dtype;
  }
  return found;
}

/// A matrix of a folder, decoded.
std::vector<float> decoded(const std::string& folder, std::string_view name, const Shape& shape) {
  Checkpoint checkpoint = Checkpoint::open(folder);
  Weights<Stored> weights;
  checkpoint.bind(weights, name, shape);
  std::vector<float> values(shape[0] * shape[1]);
  weights.decode(0, values);
  return values;
}

/// The model of TinyFolder with whatever formats a file has.
struct StoredVision : TinyVision {
  using weights = Stored;
};
struct StoredText : TinyText {
  using weights = Stored;
  using head_weights = StoredHead;
};
struct StoredTiny : Mllama<StoredVision, StoredText> {};

const std::string_view up_name = "layers.0.mlp.up_proj.weight";
const Shape up_shape{40, 24};

}  // namespace

TEST_CASE("the files are those that transformers saves with bitsandbytes") {
  std::ifstream table(MLLAMA_TEST_DATA "/golden/formats/folders.tsv");
  std::string line;
  std::getline(table, line);
  CHECK(line == "model\tformat\tskip\tfile\tcrc");
  std::size_t count = 0;
  while (std::getline(table, line)) {
    CAPTURE(line);
    const auto row = split(line, '\t');
    QuantizeOptions options = format(row[1]);
    if (row[2] != "-") options.skip = split(row[2], ',');
    for (const unsigned threads : {1U, 3U}) {
      options.threads = threads;
      const TemporaryFolder folder;
      quantize(models + row[0], folder / "out", options);
      CHECK(crc(folder.read("out/" + row[3])) == row[4]);
    }
    ++count;
  }
  CHECK(count == 14);
}

TEST_CASE("modules that a list speaks of") {
  const std::string_view mlp = "language_model.model.layers.2.mlp.down_proj";
  for (const std::string_view pattern :
       {"down_proj", "mlp.down_proj", "mlp", "layers.2", "layers.2.mlp", "language_model",
        "language_model.model.layers.2.mlp.down_proj", "model.language_model.layers.2.mlp", "model.layers.2.mlp"}) {
    CAPTURE(pattern);
    CHECK(matches_module(pattern, mlp));
    CHECK(matches_module(pattern, "model.language_model.layers.2.mlp.down_proj"));
    CHECK(matches_module(pattern, "layers.2.mlp.down_proj"));
  }
  for (const std::string_view pattern : {"proj", "layers.3", "layers.22.mlp", "down", "up_proj", "vision_model", "lm_head"}) {
    CAPTURE(pattern);
    CHECK_FALSE(matches_module(pattern, mlp));
  }
  CHECK(matches_module("lm_head", "language_model.lm_head"));
  CHECK(matches_module("language_model.lm_head", "lm_head"));
  CHECK(matches_module("vision_model.transformer.layers.13.mlp.fc2", "model.vision_model.transformer.layers.13.mlp.fc2"));
  CHECK_FALSE(matches_module("layers.1", "vision_model.transformer.layers.13.mlp.fc2"));
  CHECK_FALSE(matches_module("model.language_model.layers.13", "vision_model.transformer.layers.13.mlp.fc2"));
  CHECK(matches_module("multi_modal_projector", "model.multi_modal_projector"));
}

TEST_CASE("only linear layers are quantised, and the head is not, unless it is asked for") {
  const TinyFolder folder(seed);
  quantize(folder.path(), folder / "nf4", format("nf4", true));
  const auto quantized = dtypes(folder / "nf4", ".weight.quant_state.bitsandbytes__nf4");
  CHECK(quantized.size() == 5 * 7 + 5 * 6 + 1);  // text, vision, projector
  CHECK(quantized.contains("multi_modal_projector"));
  CHECK_FALSE(quantized.contains("language_model.lm_head"));
  for (const auto& [name, dtype] : dtypes(folder / "nf4", "norm.weight")) CHECK(dtype == Dtype::F32);

  QuantizeOptions options = format("fp4");
  options.skip = {"mlp", "vision_model"};
  quantize(folder.path(), folder / "fp4", options);
  const auto less = dtypes(folder / "fp4", ".weight.quant_state.bitsandbytes__fp4");
  CHECK(less.size() == 5 * 4 + 2);
  CHECK(less.contains("language_model.lm_head"));
  CHECK(load_weights<StoredTiny>(folder / "nf4").model->language_model.lm_head.weight.weights.loaded());
}

TEST_CASE("rules make mixtures, and mixtures load") {
  const TinyFolder folder(seed);
  QuantizeOptions options = format("nf4", true);
  options.rules = {{"layers.0.mlp.up_proj", "int8"}, {"layers.0.mlp", "bf16"}, {"vision_model", "fp4"}};
  quantize(folder.path(), folder / "mixed", options);
  CHECK(dtypes(folder / "mixed", ".SCB").size() == 1);
  const auto weights = load_weights<StoredTiny>(folder / "mixed");
  const auto& layer = weights.model->language_model.model.layers.self[0];
  CHECK(std::holds_alternative<Weights<Int8>>(layer.mlp.up_proj.weight.weights.stored));
  CHECK(std::holds_alternative<Weights<BF16>>(layer.mlp.down_proj.weight.weights.stored));
  CHECK(std::holds_alternative<Weights<NF4>>(layer.self_attn.q_proj.weight.weights.stored));
  CHECK(std::holds_alternative<Weights<FP4>>(weights.model->vision_model.transformer.layers[1].mlp.fc1.weight.weights.stored));
  CHECK(read_model_sizes(folder / "mixed").quantization.skip_modules == std::vector<std::string>{"lm_head", "layers.0.mlp"});
}

TEST_CASE("errors are those of the decoded numbers") {
  const TinyFolder folder(seed);
  for (const std::string name : {"nf4", "fp4", "int8", "bf16", "f16", "f32"}) {
    CAPTURE(name);
    const auto errors = quantize(folder.path(), folder / name, format(name, true));
    const auto found = std::ranges::find(errors, "language_model.model.layers.0.mlp.up_proj.weight", &QuantizationError::tensor);
    REQUIRE(found != errors.end());
    CHECK(found->format == name);
    CHECK(found->elements == 960);
    const auto before = decoded(folder.path(), up_name, up_shape), after = decoded(folder / name, up_name, up_shape);
    double difference = 0, size = 0, largest = 0, worst = 0;
    const std::size_t block = name == "int8" ? 24 : name == "nf4" || name == "fp4" ? 64 : 960;
    for (std::size_t first = 0; first < before.size(); first += block) {
      double d = 0, s = 0;
      for (std::size_t i = first; i < std::min(before.size(), first + block); ++i) {
        d += std::pow(double{before[i]} - double{after[i]}, 2);
        s += std::pow(double{before[i]}, 2);
        largest = std::max(largest, std::abs(double{before[i]} - double{after[i]}));
      }
      worst = std::max(worst, std::sqrt(d / s));
      difference += d;
      size += s;
    }
    CHECK(found->relative == doctest::Approx(std::sqrt(difference / size)).epsilon(1e-6));
    CHECK(double{found->largest} == doctest::Approx(largest).epsilon(1e-6));
    CHECK(found->worst_relative == doctest::Approx(worst).epsilon(1e-6));
    CHECK(found->worst_block < (960 + block - 1) / block);
    CHECK(found->relative <= (name == "f32" ? 0 : name == "f16" ? 5e-4 : name == "bf16" ? 4e-3 : name == "int8" ? 2e-2 : 0.2));
  }
}

TEST_CASE("back to floats: what the codes stand for, rounded once, and no trace of quantisation") {
  const TinyFolder folder(seed);
  quantize(folder.path(), folder / "nf4", format("nf4", true));
  quantize(folder / "nf4", folder / "back", format("f32"));
  CHECK(decoded(folder / "back", up_name, up_shape) == decoded(folder / "nf4", up_name, up_shape));
  quantize(folder / "nf4", folder / "bf16", format("bf16"));
  const auto exact = decoded(folder / "back", up_name, up_shape), rounded = decoded(folder / "bf16", up_name, up_shape);
  for (std::size_t i = 0; i < exact.size(); ++i) CHECK(rounded[i] == BF16::decode(BF16::encode(exact[i])));
  CHECK(read_model_sizes(folder / "bf16").quantization.method.empty());
  const auto all = dtypes(folder / "bf16", "");
  CHECK(all.size() == count_parameters<Tiny>().tensors);
  for (const auto& [name, dtype] : all) CHECK(dtype == Dtype::BF16);
  CHECK(folder.read("bf16/config.json").find("\"torch_dtype\": \"bfloat16\"") != std::string::npos);

  SUBCASE("and again to the same codes") {
    quantize(folder / "back", folder / "again", format("nf4", true));
    const auto once = decoded(folder / "nf4", up_name, up_shape), twice = decoded(folder / "again", up_name, up_shape);
    double difference = 0, size = 0;
    for (std::size_t i = 0; i < once.size(); ++i) {
      difference += std::pow(double{once[i]} - double{twice[i]}, 2);
      size += std::pow(double{once[i]}, 2);
    }
    CHECK(std::sqrt(difference / size) < 0.01);  // nested scales differ a little
  }
  SUBCASE("an int8 folder becomes one of 4 bits") {
    quantize(folder.path(), folder / "int8", format("int8"));
    quantize(folder / "int8", folder / "int8-nf4", format("nf4"));
    CHECK(dtypes(folder / "int8-nf4", ".SCB").empty());
    CHECK(dtypes(folder / "int8-nf4", ".quant_state.bitsandbytes__nf4").size() == 66);
    static_cast<void>(load_weights<StoredTiny>(folder / "int8-nf4"));
  }
}

TEST_CASE("the threshold of outliers is the configuration's") {
  const TinyFolder folder(seed);
  quantize(folder.path(), folder / "int8", format("int8"));
  const auto threshold = [&] {
    const auto weights = load_weights<StoredTiny>(folder / "int8");
    return std::get<Weights<Int8>>(weights.model->language_model.model.layers.cross[1].mlp.up_proj.weight.weights.stored)
        .outlier_threshold;
  };
  CHECK(threshold() == 6);
  folder.write("int8/config.json",
               replaced(folder.read("int8/config.json"), R"("llm_int8_threshold": 6.0)", R"("llm_int8_threshold": 2.5)"));
  CHECK(threshold() == 2.5F);
}

TEST_CASE("every block size, blocks that span rows") {
  const TinyFolder folder(seed);
  for (const std::size_t block : {32U, 128U, 4096U}) {
    CAPTURE(block);
    QuantizeOptions options = format("nf4");
    options.block = block;
    const std::string out = folder / concat("b", block);
    quantize(folder.path(), out, options);
    const auto before = decoded(folder.path(), up_name, up_shape), after = decoded(out, up_name, up_shape);
    std::vector<std::uint8_t> codes(480);
    std::vector<float> absmax(30), expected(960);
    CHECK(encode_blocks<NF4>(before, block, codes.data(), absmax.data()));
    Weights<NF4>{.codes = codes.data(), .rows = 40, .columns = 24, .block = block, .absmax = absmax.data()}.decode(0, expected);
    CHECK(after == expected);
  }
}

TEST_CASE("settings, tokenizer and templates come along; weights of other kinds do not") {
  const TinyFolder folder(seed);
  folder.write("chat_template.jinja", "{{ x }}");
  folder.write("pytorch_model.bin", "weights");
  folder.write("model.safetensors.index.json", "{}");
  quantize(folder.path(), folder / "out", format("nf4"));
  for (const std::string_view name :
       {"tokenizer.json", "generation_config.json", "preprocessor_config.json", "chat_template.jinja"}) {
    CHECK(folder.read(concat("out/", name)) == folder.read(name));
  }
  CHECK_FALSE(mllama::detail::exists(folder / "out/pytorch_model.bin"));
  CHECK_FALSE(mllama::detail::exists(folder / "out/model.safetensors.index.json"));
}

TEST_CASE("what cannot be is refused, and leaves nothing") {
  const TinyFolder folder(seed);
  const auto refused = [&]<class Error>(std::type_identity<Error>, QuantizeOptions options) {
    const std::string text = message<Error>([&] { quantize(folder.path(), folder / "out", std::move(options)); });
    CHECK_FALSE(mllama::detail::exists(folder / "out"));
    CHECK(folder.files() == 5);
    return text;
  };
  const std::type_identity<input_error> input;
  CHECK(refused(input, format("nf5")) == "format: expected nf4, fp4, int8, bf16, f16 or f32, found nf5");
  QuantizeOptions odd = format("nf4");
  odd.block = 48;
  CHECK(refused(input, odd) == "block: expected a power of two from 32 to 4096, found 48");
  odd = format("nf4");
  odd.rules = {{"mlp", "q4_0"}};
  CHECK(refused(input, odd) == "format: expected nf4, fp4, int8, bf16, f16 or f32, found q4_0");

  auto tensors = saved_tensors(*folder.random.model);
  const auto up = std::ranges::find(tensors, "language_model.model.layers.0.mlp.up_proj.weight", &SavedTensor::name);
  up->values[100] = std::numeric_limits<float>::quiet_NaN();
  save(folder / "model.safetensors", tensors);
  for (const std::string name : {"nf4", "int8"}) {
    const std::string text = refused(input, format(name));
    CHECK(text.find("layers.0.mlp.up_proj.weight: expected numbers that the format can hold, found nan as element 100") !=
          std::string::npos);
  }
  up->values[100] = 1e6F;
  save(folder / "model.safetensors", tensors);
  CHECK(refused(input, format("int8")).find("found 1e+06 as element 100") != std::string::npos);

  folder.write("taken", "");
  CHECK(message<file_error>([&] {
          quantize(folder.path(), folder / "taken", format("nf4"));
        }).ends_with("expected the name of a new folder or of an empty one, found a file"));
}

TEST_CASE("a disk that is full, and a program that is killed, leave nothing under the folder's name") {
  const TinyFolder folder(seed);
  const auto in_child = [&](auto&& body) {
    const pid_t child = ::fork();
    if (child == 0) {
      body();
      ::_exit(0);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    return status;
  };
  const int full = in_child([&] {
    std::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{20000, 20000};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    try {
      Quantizer(folder.path(), folder / "out", {.format = "nf4", .threads = 1}).run([] {});
    } catch (const file_error& error) {
      ::_exit(std::string_view(error.what()).find("File too large") != std::string_view::npos ? 3 : 4);
    }
  });
  CHECK(WIFEXITED(full));
  CHECK(WEXITSTATUS(full) == 3);
  CHECK(folder.files() == 5);

  const int killed = in_child([&] {
    std::size_t tensors = 0;
    Quantizer(folder.path(), folder / "out", {.format = "nf4", .threads = 1}).run([&] {
      if (++tensors == 20) ::raise(SIGKILL);
    });
  });
  CHECK(WIFSIGNALED(killed));
  CHECK_FALSE(mllama::detail::exists(folder / "out"));
  CHECK(folder.files() == 6);  // what it had so far, under another name
  quantize(folder.path(), folder / "out", {.format = "nf4", .threads = 1});
  CHECK(folder.files() == 6);  // removed by the next run
}
