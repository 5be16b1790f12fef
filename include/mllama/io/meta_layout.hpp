// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <charconv>
#include <cstddef>
#include <mllama/core/check.hpp>
#include <mllama/io/config.hpp>
#include <mllama/io/model_tensor.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

/// Meta's own layout of Llama 3.2 Vision, released beside the one of transformers: other names, a list of layers for each kind, and
/// some tensors in another arrangement. Here it lies in safetensors; the pickled `.pth` files that Meta gave out are never read.
/// Source:  meta-llama/llama-models, models/llama3/multimodal/model.py

namespace mllama {

namespace detail {

/// A name, or its part behind a layer's number, with the canonical one, and what the tensor needs beside a new name.
struct MetaName {
  enum class Kind : unsigned char { as_it_is, rope_rows, patches, tile_table, embedding, computed };
  std::string_view meta, canonical;
  Kind kind = Kind::as_it_is;
};

/// Names that follow the number of a layer.
struct MetaLayers {
  std::string_view meta, canonical;
  std::span<const MetaName> names;
};

inline constexpr auto meta_self_names = std::to_array<MetaName>({
    {"attention_norm.weight", "input_layernorm.weight"},
    {"attention.wq.weight", "self_attn.q_proj.weight", MetaName::Kind::rope_rows},
    {"attention.wk.weight", "self_attn.k_proj.weight", MetaName::Kind::rope_rows},
    {"attention.wv.weight", "self_attn.v_proj.weight"},
    {"attention.wo.weight", "self_attn.o_proj.weight"},
    {"ffn_norm.weight", "post_attention_layernorm.weight"},
    {"feed_forward.w1.weight", "mlp.gate_proj.weight"},
    {"feed_forward.w2.weight", "mlp.down_proj.weight"},
    {"feed_forward.w3.weight", "mlp.up_proj.weight"},
});
inline constexpr auto meta_cross_names = std::to_array<MetaName>({
    {"attention_norm.weight", "input_layernorm.weight"},
    {"attention.wq.weight", "cross_attn.q_proj.weight"},
    {"attention.wk.weight", "cross_attn.k_proj.weight"},
    {"attention.wv.weight", "cross_attn.v_proj.weight"},
    {"attention.wo.weight", "cross_attn.o_proj.weight"},
    {"attention.q_norm.weight", "cross_attn.q_norm.weight"},
    {"attention.k_norm.weight", "cross_attn.k_norm.weight"},
    {"gate_attn", "cross_attn_attn_gate"},
    {"ffn_norm.weight", "post_attention_layernorm.weight"},
    {"feed_forward.w1.weight", "mlp.gate_proj.weight"},
    {"feed_forward.w2.weight", "mlp.down_proj.weight"},
    {"feed_forward.w3.weight", "mlp.up_proj.weight"},
    {"gate_ffwd", "cross_attn_mlp_gate"},
});
inline constexpr auto meta_vision_names = std::to_array<MetaName>({
    {"ln_1.weight", "input_layernorm.weight"},
    {"ln_1.bias", "input_layernorm.bias"},
    {"attn.wq.weight", "self_attn.q_proj.weight"},
    {"attn.wk.weight", "self_attn.k_proj.weight"},
    {"attn.wv.weight", "self_attn.v_proj.weight"},
    {"attn.wo.weight", "self_attn.o_proj.weight"},
    {"gate_attn", "gate_attn"},
    {"ln_2.weight", "post_attention_layernorm.weight"},
    {"ln_2.bias", "post_attention_layernorm.bias"},
    {"mlp.c_fc.weight", "mlp.fc1.weight"},
    {"mlp.c_fc.bias", "mlp.fc1.bias"},
    {"mlp.c_proj.weight", "mlp.fc2.weight"},
    {"mlp.c_proj.bias", "mlp.fc2.bias"},
    {"gate_ffn", "gate_ffn"},
});
inline constexpr MetaLayers meta_self_layers{"text_model.layers.", "layers.", meta_self_names};
inline constexpr MetaLayers meta_cross_layers{"text_model.cross_attention_layers.", "layers.", meta_cross_names};
inline constexpr MetaLayers meta_vision_layers{"vision_model.vision_encoder.transformer.resblocks.",
                                               "vision_model.transformer.layers.", meta_vision_names};
inline constexpr MetaLayers meta_global_layers{"vision_model.vision_encoder.global_transformer.resblocks.",
                                               "vision_model.global_transformer.layers.", meta_vision_names};

inline constexpr std::string_view embedding_name = "embed_tokens.weight", extra_embedding_name = "learnable_embedding.weight";
inline constexpr auto meta_names = std::to_array<MetaName>({
    {"text_model.tok_embeddings.weight", embedding_name, MetaName::Kind::embedding},
    {"text_model.learnable_embedding.weight", extra_embedding_name},
    {"text_model.norm.weight", "norm.weight"},
    {"text_model.output.weight", "lm_head.weight"},
    {"text_model.rope.freqs", "", MetaName::Kind::computed},
    {"vision_model.vision_projection.weight", "multi_modal_projector.weight"},
    {"vision_model.vision_projection.bias", "multi_modal_projector.bias"},
    {"vision_model.vision_encoder.class_embedding", "vision_model.class_embedding"},
    {"vision_model.vision_encoder.conv1._linear.weight", "vision_model.patch_embedding.weight", MetaName::Kind::patches},
    {"vision_model.vision_encoder.positional_embedding", "vision_model.gated_positional_embedding.embedding"},
    {"vision_model.vision_encoder.gated_positional_embedding", "vision_model.gated_positional_embedding.tile_embedding.weight",
     MetaName::Kind::tile_table},
    {"vision_model.vision_encoder.gated_positional_embedding_gate", "vision_model.gated_positional_embedding.gate"},
    {"vision_model.vision_encoder.pre_tile_pos_embed.embedding", "vision_model.pre_tile_positional_embedding.embedding.weight",
     MetaName::Kind::tile_table},
    {"vision_model.vision_encoder.pre_tile_pos_embed.gate", "vision_model.pre_tile_positional_embedding.gate"},
    {"vision_model.vision_encoder.post_tile_pos_embed.embedding", "vision_model.post_tile_positional_embedding.embedding.weight",
     MetaName::Kind::tile_table},
    {"vision_model.vision_encoder.post_tile_pos_embed.gate", "vision_model.post_tile_positional_embedding.gate"},
    {"vision_model.vision_encoder.ln_pre.weight", "vision_model.layernorm_pre.weight"},
    {"vision_model.vision_encoder.ln_pre.bias", "vision_model.layernorm_pre.bias"},
    {"vision_model.vision_encoder.ln_post.weight", "vision_model.layernorm_post.weight"},
    {"vision_model.vision_encoder.ln_post.bias", "vision_model.layernorm_post.bias"},
});

}  // namespace detail

/// Whether a name is one that only Meta's layout has.
[[nodiscard]] constexpr bool is_meta_name(std::string_view name) noexcept {
  return name.starts_with("text_model.") || name.starts_with("vision_model.vision_encoder.") ||
         name.starts_with("vision_model.vision_projection.");
}

/// From Meta's layout to the model's, for a model of these sizes: nothing in the tensors says which layer is a cross-attention
/// layer, how many rows a head has and which aspect ratios there are.
template <class = void>  // a template, so that bodies are compiled where they are used and not with every include
class BasicMetaLayout {
 public:
  explicit BasicMetaLayout(ModelSizes sizes) : sizes_(std::move(sizes)) {
    for (int layer = 0; layer < sizes_.text.layers; ++layer) {
      if (!std::ranges::binary_search(sizes_.text.cross, layer)) self_.push_back(layer);
    }
  }

  /// The model's tensor. One whose name the layout has not keeps it. Nothing if the model has no use for it: frequencies that follow
  /// from the configuration. What is returned refers to this object.
  /// Errors:  format_error if the tensor cannot be brought into the model's arrangement.
  [[nodiscard]] std::optional<ModelTensor> tensor(const TensorOfFile& stored) const {
    using enum detail::MetaName::Kind;
    ModelTensor tensor{.name = stored.tensor->name, .dtype = stored.tensor->dtype, .shape = stored.tensor->shape, .stored = stored};
    switch (rename(tensor.name)) {
      case as_it_is:
      case embedding:
        break;
      case rope_rows:
        set_head_rows(tensor);
        break;
      case patches:
        set_patches(tensor);
        break;
      case tile_table:
        set_tile_table(tensor);
        break;
      case computed:
        return std::nullopt;
    }
    return tensor;
  }

  /// The embedding with the rows that Meta keeps apart, in the order of the model's ids.
  /// Errors:  format_error if they do not fit together.
  static void join(ModelTensor& embedding, const TensorOfFile& rest) {
    const FileTensor &first = *embedding.stored.tensor, &last = *rest.tensor;
    require_float(embedding);
    if (first.dtype != last.dtype || first.shape.size() != 2 || last.shape.size() != 2 || first.shape[1] != last.shape[1]) {
      rest.fail(concat(name(first.dtype), " rows like those of ", first.name, ", ", to_string(first.shape)),
                concat(name(last.dtype), " ", to_string(last.shape)));
    }
    embedding.shape[0] += last.shape[0];
    embedding.rearrangement = JoinedRows{rest};
  }

 private:
  using Kind = detail::MetaName::Kind;

  /// Replaces Meta's name by the canonical one.
  Kind rename(std::string& name) const {
    const auto find = [&](std::span<const detail::MetaName> names, std::string_view part) {
      const auto found = std::ranges::find(names, part, &detail::MetaName::meta);
      return found == names.end() ? nullptr : &*found;
    };
    if (const detail::MetaName* const found = find(detail::meta_names, name)) {
      name = found->canonical;
      return found->kind;
    }
    for (const detail::MetaLayers* const layers :
         {&detail::meta_self_layers, &detail::meta_cross_layers, &detail::meta_vision_layers, &detail::meta_global_layers}) {
      if (!name.starts_with(layers->meta)) continue;
      const char* const end = name.data() + name.size();
      std::size_t index = 0;
      const auto [stop, status] = std::from_chars(name.data() + layers->meta.size(), end, index);
      if (status != std::errc{} || stop == end || *stop != '.') continue;
      const detail::MetaName* const found = find(layers->names, {stop + 1, end});
      const auto layer = found == nullptr ? std::nullopt : position(*layers, index);
      if (!layer) continue;
      name = concat(layers->canonical, *layer, '.', found->canonical);
      return found->kind;
    }
    return Kind::as_it_is;
  }

  /// Where layer `index` of a list is in the model.
  [[nodiscard]] std::optional<std::size_t> position(const detail::MetaLayers& layers, std::size_t index) const {
    const bool is_self = &layers == &detail::meta_self_layers;
    if (!is_self && &layers != &detail::meta_cross_layers) return index;
    const std::vector<int>& positions = is_self ? self_ : sizes_.text.cross;
    if (index >= positions.size()) return std::nullopt;
    return static_cast<std::size_t>(positions[index]);
  }

  /// Meta rotates neighbouring features, the model those half a head apart.
  void set_head_rows(ModelTensor& tensor) const {
    require_float(tensor);
    const auto head = static_cast<std::size_t>(sizes_.text.hidden / sizes_.text.heads);
    if (tensor.shape.size() != 2 || tensor.shape[0] == 0 || tensor.shape[0] % head != 0) {
      tensor.stored.fail(concat("rows for heads of ", head), to_string(tensor.shape));
    }
    tensor.rearrangement = InterleavedRows{head};
  }

  void set_patches(ModelTensor& tensor) const {
    if (!sizes_.vision) return;
    const auto channels = static_cast<std::size_t>(sizes_.vision->channels),
               side = static_cast<std::size_t>(sizes_.vision->patch_size);
    if (tensor.shape.size() != 2 || tensor.shape[1] != channels * side * side) {
      tensor.stored.fail(concat("columns for ", channels, " channels of ", side, " x ", side, " pixels"), to_string(tensor.shape));
    }
    tensor.shape = {tensor.shape[0], channels, side, side};
  }

  void set_tile_table(ModelTensor& tensor) const {
    if (!sizes_.vision) return;
    require_float(tensor);
    const auto tiles = static_cast<std::size_t>(sizes_.vision->max_tiles);
    const Shape& shape = tensor.shape;
    if (shape.size() != 4 || shape[0] != tiles || shape[1] != tiles || tensor.stored.tensor->bytes.empty()) {
      tensor.stored.fail(concat('[', tiles, ", ", tiles, ", positions, features]"), to_string(shape));
    }
    tensor.shape = {sizes_.vision->aspect_ratios.size() + 1, tiles * shape[2] * shape[3]};
    tensor.rearrangement = TileTable{sizes_.vision->aspect_ratios};
  }

  static void require_float(const ModelTensor& tensor) {
    const Dtype dtype = tensor.dtype;
    if (dtype != Dtype::F32 && dtype != Dtype::BF16 && dtype != Dtype::F16) {
      tensor.stored.fail("F32, BF16 or F16", std::string(name(dtype)), "tensors of Meta's layout are not quantised");
    }
  }

  ModelSizes sizes_;
  std::vector<int> self_;  ///< layers without cross-attention
};
using MetaLayout = BasicMetaLayout<>;
#if defined(MLLAMA_ELSEWHERE)
extern template class BasicMetaLayout<>;
#endif

}  // namespace mllama
