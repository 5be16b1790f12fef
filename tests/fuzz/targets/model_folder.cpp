// SPDX-License-Identifier: MIT
// A folder with a small config.json: tensors in Meta's layout, which only the configuration explains, and all that `verify` looks at.
// The input is the header's JSON of consolidated.safetensors, a NUL, and what to fill the tensors with.
#include <filesystem>
#include <mllama/generate/verify.hpp>
#include <mllama/models/mllama/models.hpp>

#include "fuzz.hpp"
#include "safetensors_input.hpp"
#include "unit/io/temporary_folder.hpp"
#include "use_folder.hpp"

using mllama_fuzz::require;

namespace {

struct Folder {
  mllama_test::TemporaryFolder folder;
  mllama_fuzz::MemoryFile file;

  Folder() {
    folder.write("config.json",
                 R"({"model_type":"mllama","image_token_index":16,"quantization_config":{"load_in_4bit":true,)"
                 R"("llm_int8_skip_modules":["lm_head","model.layers.1"]},"text_config":{"vocab_size":16,"hidden_size":8,)"
                 R"("num_attention_heads":2,"num_key_value_heads":1,"num_hidden_layers":6,"cross_attention_layers":[2,4]},)"
                 R"("vision_config":{"hidden_size":4,"attention_heads":2,"num_hidden_layers":2,"vision_output_dim":8,)"
                 R"("intermediate_layers_indices":[0],"image_size":6,"patch_size":3,"num_channels":1,"max_num_tiles":2,)"
                 R"("supported_aspect_ratios":[[1,1],[1,2],[2,1]]}})");
    std::filesystem::create_symlink(file.path(), folder / "consolidated.safetensors");
  }
};

}  // namespace

std::vector<std::string> mllama_fuzz::seeds() {
  return {
      R"({"text_model.layers.3.attention.wq.weight":{"dtype":"F32","shape":[8,2],"data_offsets":[0,64]},)"
      R"("text_model.tok_embeddings.weight":{"dtype":"BF16","shape":[2,3],"data_offsets":[64,76]},)"
      R"("text_model.learnable_embedding.weight":{"dtype":"BF16","shape":[1,3],"data_offsets":[76,82]},)"
      R"("text_model.cross_attention_layers.1.gate_ffwd":{"dtype":"F16","shape":[1],"data_offsets":[82,84]},)"
      R"("text_model.rope.freqs":{"dtype":"F32","shape":[1],"data_offsets":[84,88]}})",
      R"({"vision_model.vision_encoder.conv1._linear.weight":{"dtype":"F16","shape":[2,9],"data_offsets":[0,36]},)"
      R"("vision_model.vision_encoder.gated_positional_embedding":{"dtype":"BF16","shape":[2,2,3,1],"data_offsets":[36,60]},)"
      R"("vision_model.vision_encoder.global_transformer.resblocks.1.ln_1.bias":{"dtype":"F32","shape":[1],)"
      R"("data_offsets":[60,64]}})",
      R"({"model.layers.1.mlp.up_proj.weight":{"dtype":"I8","shape":[2,3],"data_offsets":[0,6]},)"
      R"("model.layers.1.mlp.up_proj.SCB":{"dtype":"F32","shape":[2],"data_offsets":[6,14]}})",
  };
}

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static Folder folder;
  const mllama_fuzz::TwoParts input(mllama_fuzz::text_of(data, size));
  folder.file.write(mllama_fuzz::safetensors_file(input.json, input.rest));
  mllama_fuzz::use_folder(folder.folder.path());
  const mllama::Verification found = mllama::verify_folder(folder.folder.path(), mllama::Models<>());
  for (const std::string& problem : found.problems) require(!problem.empty(), "a problem is described");
  return 0;
}
