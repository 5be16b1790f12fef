// SPDX-License-Identifier: MIT
// An adapter's folder: adapter_config.json, a NUL, adapter_model.safetensors. It is asked for a linear and a table of tokens, both
// (7, 5), and for what may take the place of a norm and a bias of 5.
#include <array>
#include <cmath>
#include <filesystem>
#include <mllama/generate/adapter_file.hpp>
#include <mllama/io/safetensors_writer.hpp>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "fuzz.hpp"
#include "unit/io/temporary_folder.hpp"

using mllama::Dtype;
using mllama::FileTensor;
using mllama_fuzz::require;

namespace {

constexpr std::size_t rows = 7, columns = 5;

struct Folder {
  mllama_test::TemporaryFolder folder;
  mllama_fuzz::MemoryFile config, tensors;

  Folder() {
    std::filesystem::create_symlink(config.path(), folder / "adapter_config.json");
    std::filesystem::create_symlink(tensors.path(), folder / "adapter_model.safetensors");
  }
};

void use(const std::optional<mllama::LowRank>& change) {
  if (!change) return;
  require(change->a.rows == change->b.columns && change->a.rows >= 1, "a change has a rank");
  require(change->a.columns == columns && change->b.rows == rows, "a change has the sizes of what it changes");
  require(std::isfinite(change->scale), "a scale is a number");
  std::vector<float> weights(rows * columns), bias(rows);
  mllama::merge(std::array{mllama::ScaledLowRank{*change}}, 0, {weights.data(), rows, columns, columns}, bias);
}

std::string adapter(std::string_view config, std::vector<std::pair<std::string, mllama::Shape>> shapes) {
  const mllama_test::TemporaryFolder folder;
  static constexpr std::array<float, 64> numbers{1, -2, 3, -4, 5, 6};
  std::vector<FileTensor> tensors;
  for (auto& [name, shape] : shapes) {
    FileTensor tensor{std::move(name), Dtype::F32, std::move(shape), {}};
    tensor.bytes = std::as_bytes(std::span(numbers)).first(tensor.size() * sizeof(float));
    tensors.push_back(std::move(tensor));
  }
  mllama::write_safetensors(folder / "tensors", tensors);
  return mllama::concat(config, '\0', folder.read("tensors"));
}

}  // namespace

std::vector<std::string> mllama_fuzz::seeds() {
  const std::string linear = "base_model.model.language_model.model.layers.0.mlp.up_proj.",
                    table = "base_model.model.model.embed_tokens.";
  return {
      adapter(R"({"peft_type":"LORA","r":2,"lora_alpha":4})",
              {{linear + "lora_A.weight", {2, 5}}, {linear + "lora_B.weight", {7, 2}}}),
      adapter(
          R"({"peft_type":"LORA","r":2,"use_dora":true,"rank_pattern":{"x":3,"layers\\.0\\..*":1},"alpha_pattern":{"^l.*":0.5}})",
          {{linear + "lora_A.weight", {1, 5}}, {linear + "lora_B.weight", {7, 1}}, {linear + "lora_magnitude_vector", {7}}}),
      adapter(R"({"peft_type":"LORA","r":1,"lora_bias":true,"use_rslora":true,"bias":"all"})", {{linear + "lora_A.weight", {1, 5}},
                                                                                                {linear + "lora_B.weight", {7, 1}},
                                                                                                {linear + "lora_B.bias", {7}},
                                                                                                {linear + "base_layer.bias", {7}}}),
      adapter(R"({"peft_type":"LORA","r":1,"modules_to_save":["norm"],"unknown":[1]})", {{table + "lora_embedding_A", {1, 7}},
                                                                                         {table + "lora_embedding_B", {5, 1}},
                                                                                         {table + "base_layer.weight", {7, 5}},
                                                                                         {"norm.weight", {5}},
                                                                                         {"norm.original_module.weight", {5}}}),
      mllama::concat(repository_file("tests/golden/adapters/one_tile/biased/adapter_config.json"), '\0',
                     repository_file("tests/golden/adapters/one_tile/biased/adapter_model.safetensors")),
  };
}

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static Folder folder;
  const mllama_fuzz::TwoParts parts(mllama_fuzz::text_of(data, size));
  folder.config.write(parts.json);
  folder.tensors.write(parts.rest);
  mllama_fuzz::takes([&] {
    mllama::AdapterFile file(folder.folder.path());
    require(file.config().notices.size() <= 20, "there are few notices");
    use(file.linear("layers.0.mlp.up_proj", rows, columns));
    use(file.embedding("embed_tokens", rows, columns));
    static_cast<void>(file.replacement("norm.weight", std::array{columns}));
    static_cast<void>(file.replacement("layers.0.mlp.up_proj.bias", std::array{rows}));
    static_cast<void>(file.copy("norm.weight", std::array{columns}));
    static_cast<void>(file.copy("embed_tokens.weight", std::array{rows, columns}));
    file.check_all_used();
  });
  return 0;
}
