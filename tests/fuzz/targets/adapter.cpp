// SPDX-License-Identifier: MIT
// An adapter of PEFT for a few parameters: adapter_config.json, a NUL, the header's JSON of adapter_model.safetensors, another NUL,
// and what to fill the tensors with.
#include <array>
#include <filesystem>
#include <mllama/core/thread_pool.hpp>
#include <mllama/generate/adapter_merge.hpp>
#include <mllama/layers/lora.hpp>

#include "fuzz.hpp"
#include "safetensors_input.hpp"
#include "unit/io/temporary_folder.hpp"

using mllama_fuzz::require;
using mllama_fuzz::takes;

namespace {

struct Folder {
  mllama_test::TemporaryFolder folder;
  mllama_fuzz::MemoryFile config, tensors;

  Folder() {
    std::filesystem::create_symlink(config.path(), folder / "adapter_config.json");
    std::filesystem::create_symlink(tensors.path(), folder / "adapter_model.safetensors");
  }
};

struct Parameter {
  std::string_view name;
  mllama::Shape shape;
};

/// Merges an adapter into all parameters of a model whose weights are 1.
void merge_all(const std::string& folder) {
  static mllama::ThreadPool threads(1);
  static const std::array parameters{Parameter{"layers.0.self_attn.q_proj.weight", {4, 6}},
                                     Parameter{"layers.1.mlp.up_proj.weight", {5, 3}},
                                     Parameter{"vision_model.transformer.layers.0.mlp.fc1.weight", {2, 3}},
                                     Parameter{"vision_model.transformer.layers.0.mlp.fc1.bias", {2}},
                                     Parameter{"embed_tokens.weight", {7, 3}},
                                     Parameter{"lm_head.weight", {6, 3}},
                                     Parameter{"norm.weight", {3}}};
  mllama::AdapterMerge adapters;
  adapters.add(folder, 0.5);
  for (const auto& [name, shape] : parameters) {
    const std::size_t rows = shape[0], columns = shape.size() == 2 ? shape[1] : 1;
    std::vector<float> numbers(rows * columns, 1.0F), bias(rows, 1.0F);
    const mllama::Weights<mllama::F32> weights{numbers.data(), rows, columns};
    takes([&] {
      const mllama::MergedParameter merged = adapters.of(name, shape, weights, threads);
      if (merged.replacement != nullptr) require(merged.replacement->shape == shape, "what replaces a parameter has its shape");
      mllama::merge(merged.changes, 0, {numbers.data(), rows, columns}, bias);
    });
  }
  for (const std::string& notice : adapters.notices()) require(!notice.empty(), "a notice is a line");
  adapters.check_all_used();
}

}  // namespace

std::vector<std::string> mllama_fuzz::seeds() {
  using namespace std::string_literals;
  const std::string
      change =
          R"({"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight":{"dtype":"F32","shape":[2,6],"data_offsets":[0,48]},)"
          R"("base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight":{"dtype":"F32","shape":[4,2],"data_offsets":[48,80]})",
      other = R"("base_model.model.language_model.model.layers.1.mlp.up_proj.)";
  return {
      R"({"peft_type":"LORA","r":2,"lora_alpha":4})"s + '\0' + change + "}\0\0\0\x80?"s,
      R"({"peft_type":"LORA","r":8,"rank_pattern":{"q_proj":2,".*up_proj":1},"alpha_pattern":{"up_proj":0.5},"use_rslora":true,)"
      R"("lora_bias":true,"bias":"all","unknown":1})"s +
          '\0' + change + "," + other + R"(lora_A.weight":{"dtype":"BF16","shape":[1,3],"data_offsets":[80,86]},)" + other +
          R"(lora_B.weight":{"dtype":"F16","shape":[5,1],"data_offsets":[86,96]},)" + other +
          R"(lora_B.bias":{"dtype":"F16","shape":[5],"data_offsets":[96,106]}})" + "\0\x80?"s,
      R"({"peft_type":"LORA","r":2,"use_dora":true,"modules_to_save":["norm"]})"s + '\0' + change +
          R"(,"base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector":{"dtype":"F32","shape":[4],)"
          R"("data_offsets":[80,96]},"base_model.model.model.norm.weight":{"dtype":"F32","shape":[3],"data_offsets":[96,108]}})",
      R"({"peft_type":"LORA","r":1,"bias":"lora_only"})"s + '\0' +
          R"({"base_model.model.model.embed_tokens.lora_embedding_A":{"dtype":"F32","shape":[1,7],"data_offsets":[0,28]},)"
          R"("base_model.model.model.embed_tokens.lora_embedding_B":{"dtype":"F32","shape":[3,1],"data_offsets":[28,40]},)"
          R"("base_model.model.lm_head.weight":{"dtype":"F32","shape":[6,3],"data_offsets":[40,112]},)"
          R"("vision_model.transformer.layers.0.mlp.fc1.base_layer.bias":{"dtype":"F32","shape":[2],"data_offsets":[112,120]}})"
          "\0\0\0\x80?"s,
  };
}

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static Folder folder;
  const mllama_fuzz::TwoParts input(mllama_fuzz::text_of(data, size)), tensors(input.rest);
  folder.config.write(input.json);
  folder.tensors.write(mllama_fuzz::safetensors_file(tensors.json, tensors.rest));
  takes([&] { merge_all(folder.folder.path()); });
  return 0;
}
