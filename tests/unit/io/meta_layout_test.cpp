// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <mllama/io/meta_layout.hpp>
#include <mllama/io/model_files.hpp>
#include <mllama/io/safetensors_writer.hpp>
#include <string>
#include <vector>

#include "temporary_folder.hpp"

using namespace mllama;
using mllama_test::message;
using mllama_test::TemporaryFolder;

namespace {

/// Layers 0, 1, 3 and 5 have no cross-attention, 2 and 4 have; heads of 4 rows; two tiles of 2 x 2 patches.
ModelSizes sizes() {
  ModelSizes all;
  all.vision.emplace();
  all.text.hidden = 8;
  all.text.heads = 2;
  all.text.kv_heads = 1;
  all.text.layers = 6;
  all.text.cross = {2, 4};
  all.vision->hidden = 5;
  all.vision->patch_size = 3;
  all.vision->channels = 1;
  all.vision->max_tiles = 2;
  all.vision->aspect_ratios = {{1, 1}, {1, 2}, {2, 1}};
  return all;
}

struct Layout {
  MetaLayout layout{sizes()};
  std::vector<std::byte> memory{4096};

  std::optional<ModelTensor> tensor(FileTensor& stored) {
    stored.bytes = std::span(memory).first(stored.size() * bits(stored.dtype) / 8);
    return layout.tensor({&stored, "file"});
  }
  std::string name(std::string meta) {
    FileTensor stored{std::move(meta), Dtype::F32, {1}, {}};
    return tensor(stored)->name;
  }
  std::string failure(FileTensor stored) {
    return message<format_error>([&] { static_cast<void>(tensor(stored)); });
  }
};

}  // namespace

TEST_CASE_FIXTURE(Layout, "names are Meta's or not, and become those of the model") {
  CHECK(is_meta_name("text_model.norm.weight"));
  CHECK(is_meta_name("vision_model.vision_encoder.ln_pre.bias"));
  CHECK(is_meta_name("vision_model.vision_projection.bias"));
  for (const std::string_view other : {"language_model.model.norm.weight", "model.norm.weight", "vision_model.class_embedding",
                                       "vision_model.transformer.layers.0.mlp.fc1.bias", "text_model", ""}) {
    CHECK_FALSE(is_meta_name(other));
  }
  CHECK(name("text_model.norm.weight") == "norm.weight");
  CHECK(name("text_model.layers.0.ffn_norm.weight") == "layers.0.post_attention_layernorm.weight");
  CHECK(name("text_model.layers.2.attention.wo.weight") == "layers.3.self_attn.o_proj.weight");
  CHECK(name("text_model.layers.3.feed_forward.w1.weight") == "layers.5.mlp.gate_proj.weight");
  CHECK(name("text_model.cross_attention_layers.0.attention.wk.weight") == "layers.2.cross_attn.k_proj.weight");
  CHECK(name("text_model.cross_attention_layers.1.gate_ffwd") == "layers.4.cross_attn_mlp_gate");
  CHECK(name("vision_model.vision_encoder.transformer.resblocks.31.mlp.c_fc.bias") ==
        "vision_model.transformer.layers.31.mlp.fc1.bias");
  CHECK(name("vision_model.vision_encoder.global_transformer.resblocks.7.gate_ffn") ==
        "vision_model.global_transformer.layers.7.gate_ffn");
  FileTensor frequencies{"text_model.rope.freqs", Dtype::F32, {2}, {}};
  CHECK_FALSE(tensor(frequencies));
}

TEST_CASE_FIXTURE(Layout, "a name that the layout has not is kept, to be left over") {
  for (const char* const other : {"text_model.layers.4.ffn_norm.weight", "text_model.cross_attention_layers.2.gate_attn",
                                  "text_model.layers.0.gate_attn", "text_model.layers.0.attention.wq.bias",
                                  "text_model.layers.0.attention.wv.weight.absmax", "text_model.layers.x.ffn_norm.weight",
                                  "text_model.layers.-1.ffn_norm.weight", "text_model.layers.99999999999999999999.ffn_norm.weight",
                                  "text_model.layers.", "text_model.layers.1", "text_model.layers.1.", "text_model.",
                                  "vision_model.vision_encoder.transformer.resblocks.0.attn", "vision_model.vision_projection."}) {
    CAPTURE(other);
    CHECK(name(other) == other);
  }
}

TEST_CASE_FIXTURE(Layout, "shapes become those of the model") {
  FileTensor q{"text_model.layers.1.attention.wq.weight", Dtype::BF16, {8, 8}, {}};
  CHECK(std::get<InterleavedRows>(tensor(q)->rearrangement).head == 4);
  FileTensor cross{"text_model.cross_attention_layers.1.attention.wq.weight", Dtype::BF16, {8, 8}, {}};
  CHECK(tensor(cross)->in_place());
  FileTensor vision{"vision_model.vision_encoder.transformer.resblocks.0.attn.wq.weight", Dtype::BF16, {5, 5}, {}};
  CHECK(tensor(vision)->in_place());
  FileTensor patches{"vision_model.vision_encoder.conv1._linear.weight", Dtype::BF16, {5, 9}, {}};
  CHECK(tensor(patches)->shape == Shape{5, 1, 3, 3});
  CHECK(tensor(patches)->in_place());
  FileTensor positions{"vision_model.vision_encoder.gated_positional_embedding", Dtype::F32, {2, 2, 5, 5}, {}};
  CHECK(tensor(positions)->shape == Shape{4, 2 * 5 * 5});
  CHECK(tensor(positions)->bytes() == 4 * 50 * 4);
  FileTensor tiles{"vision_model.vision_encoder.pre_tile_pos_embed.embedding", Dtype::F16, {2, 2, 1, 5}, {}};
  CHECK(tensor(tiles)->shape == Shape{4, 2 * 5});
}

TEST_CASE_FIXTURE(Layout, "what cannot be arranged is named") {
  const std::string q = "text_model.layers.0.attention.wk.weight", table = "vision_model.vision_encoder.gated_positional_embedding";
  const std::string patches = "vision_model.vision_encoder.conv1._linear.weight";
  CHECK(failure({q, Dtype::F32, {6, 8}, {}}) == concat("file: ", q, ": expected rows for heads of 4, found [6, 8]"));
  CHECK(failure({q, Dtype::F32, {0, 8}, {}}).find("expected rows for heads of 4") != std::string::npos);
  CHECK(failure({q, Dtype::F32, {8}, {}}).find("expected rows for heads of 4") != std::string::npos);
  CHECK(failure({q, Dtype::I8, {8, 8}, {}}) ==
        concat("file: ", q, ": expected F32, BF16 or F16, found I8: tensors of Meta's layout are not quantised"));
  CHECK(failure({patches, Dtype::F32, {5, 8}, {}}) ==
        concat("file: ", patches, ": expected columns for 1 channels of 3 x 3 pixels, found [5, 8]"));
  CHECK(failure({table, Dtype::F32, {2, 3, 5, 5}, {}}) ==
        concat("file: ", table, ": expected [2, 2, positions, features], found [2, 3, 5, 5]"));
  CHECK(failure({table, Dtype::F32, {4, 50}, {}}).find("expected [2, 2, positions, features]") != std::string::npos);
  CHECK(failure({table, Dtype::F32, {2, 2, 0, 5}, {}}).find("expected [2, 2, positions, features]") != std::string::npos);
  CHECK(failure({table, Dtype::F4, {2, 2, 5, 5}, {}}).find("expected F32, BF16 or F16") != std::string::npos);
}

TEST_CASE("the two parts of the embedding must be there and fit; sizes come from config.json") {
  const std::vector<float> memory(64);
  const auto f32 = [&](std::string name, Shape shape) {
    FileTensor tensor{std::move(name), Dtype::F32, std::move(shape), {}};
    tensor.bytes = std::as_bytes(std::span(memory)).first(4 * tensor.size());
    return tensor;
  };
  const TemporaryFolder folder;
  const auto opened = [&](std::vector<FileTensor> tensors) {
    write_safetensors(folder / "model.safetensors", tensors);
    const std::string what = message<error>([&] { static_cast<void>(ModelFiles::open(folder.path())); });
    return what.starts_with(folder.path()) ? what.substr(folder.path().size() + 1) : what;
  };
  const std::string first = "text_model.tok_embeddings.weight", rest = "text_model.learnable_embedding.weight";
  CHECK(opened({f32(first, {4, 2})}).find("config.json: cannot open") == 0);
  folder.write("config.json", R"({"model_type": "mllama", "vision_config": {}})");
  CHECK(opened({f32(first, {4, 2}), f32(rest, {8, 2})}) == "no exception");
  CHECK(ModelFiles::open(folder.path()).find("embed_tokens.weight")->shape == Shape{12, 2});
  CHECK(ModelFiles::open(folder.path()).tensors().size() == 1);
  CHECK(opened({f32(first, {4, 2})}) == concat("model.safetensors: ", first,
                                               ": expected a tensor text_model.learnable_embedding.weight with its last rows, ",
                                               "found none of this name"));
  CHECK(opened({f32(first, {4, 2}), f32(rest, {8, 3})}).find(rest + ": expected F32 rows like those of") != std::string::npos);
  CHECK(opened({f32(first, {4, 2}), f32(rest, {16})}).find(rest + ": expected F32 rows like those of") != std::string::npos);
  FileTensor half = f32(rest, {8, 2});
  half.dtype = Dtype::BF16;
  half.bytes = half.bytes.first(32);
  CHECK(opened({f32(first, {4, 2}), half}).find("found BF16 [8, 2]") != std::string::npos);
  CHECK(opened({f32(rest, {8, 2})}) == "no exception");  // left over
  CHECK(opened({f32("text_model.layers.0.ffn_norm.weight", {2}), f32("model.layers.0.post_attention_layernorm.weight", {2})})
            .find("names the same tensor as") != std::string::npos);
}
