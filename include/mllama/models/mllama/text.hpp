// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <type_traits>

#include <mllama/core/context.hpp>
#include <mllama/core/visit.hpp>
#include <mllama/layers/attention.hpp>
#include <mllama/layers/cross_attention.hpp>
#include <mllama/layers/embedding.hpp>
#include <mllama/layers/gate.hpp>
#include <mllama/layers/linear.hpp>
#include <mllama/layers/mlp.hpp>
#include <mllama/layers/norm.hpp>
#include <mllama/layers/rope.hpp>
#include <mllama/layers/screened_head.hpp>
#include <mllama/models/mllama/cache.hpp>
#include <mllama/models/mllama/config.hpp>

/// The language model of Mllama: Llama layers, and between them layers that attend to pictures.
/// Source:  transformers' MllamaTextModel and MllamaForCausalLM; keys below `language_model.`

namespace mllama {

/// Sequences packed one after the other. Padding never exists inside.
template <class C>
struct TextBatch {
  std::span<const std::int32_t> ids;           ///< (tokens)
  std::span<const std::int32_t> positions;     ///< (tokens), each in its sequence
  std::span<const TextSequence<C>> sequences;  ///< in order; their rows add up to the tokens
};

/// The modules of the text layers, under the names that the published tree gives them.
template <int N>
struct TextRMSNorm : RMSNorm<N> {
  static constexpr std::string_view class_name = "MllamaTextRMSNorm";
};
template <class C>
struct TextMLP : GatedMLP<typename C::weights, C::hidden, C::inner, typename C::activation> {
  static constexpr std::string_view class_name = "MllamaTextMLP";
};
template <class C>
struct TextSelfAttention : SelfAttention<typename C::weights, C::hidden, C::heads, C::kv_heads, C::window> {
  static constexpr std::string_view class_name = "MllamaTextSelfSdpaAttention";
};
template <class C>
using cross_weights = std::conditional_t<std::is_void_v<typename C::cross_weights>, typename C::weights, typename C::cross_weights>;
template <class C>
using cross_key_weights =
    std::conditional_t<std::is_void_v<typename C::cross_key_weights>, cross_weights<C>, typename C::cross_key_weights>;
template <class C>
struct TextCrossAttention : CrossAttention<cross_weights<C>, C::hidden, C::heads, C::kv_heads, TextRMSNorm, cross_key_weights<C>> {
  static constexpr std::string_view class_name = "MllamaTextCrossSdpaAttention";
};

template <class C>
using TextStates = View<float, Tokens, Dim<C::hidden>>;

/// A Llama layer.
/// Shapes:  x (tokens, hidden), in place
template <class C>
struct SelfAttentionLayer {
  static constexpr std::string_view class_name = "MllamaSelfAttentionDecoderLayer";
  static_assert(C::template mlp<C>::width == C::hidden, "SelfAttentionLayer<C>: C::mlp must take rows of C::hidden");
  TextSelfAttention<C> self_attn{};
  typename C::template mlp<C> mlp{};
  TextRMSNorm<C::hidden> input_layernorm{{.eps = C::norm_eps}}, post_attention_layernorm{{.eps = C::norm_eps}};

  static constexpr void visit(auto& self, auto&& member) {
    member("self_attn", self.self_attn);
    member("mlp", self.mlp);
    member("input_layernorm", self.input_layernorm);
    member("post_attention_layernorm", self.post_attention_layernorm);
  }

  template <class Ctx>
  void operator()(TextStates<C> x, View<const float, Tokens, Dim<TextShape<C>::head_dim>> angles, std::span<const CachedRows> rows,
                  Ctx& ctx) const {
    self_attn.add(ctx.shown("input_layernorm", input_layernorm(x, ctx)), angles, rows, {x}, ctx);
    ctx.tap({"attended"}, x);
    mlp.add(ctx.shown("post_attention_layernorm", post_attention_layernorm(x, ctx)), {x}, ctx);
  }
};

/// Which rows of a batch a cross-attention layer changes, for each of its branches; empty means all.
struct CrossRowMasks {
  std::span<const std::uint8_t> attention, mlp;
};

/// A layer that attends to pictures.
/// Shapes:  x (tokens, hidden), in place
template <class C>
struct CrossAttentionLayer {
  static constexpr std::string_view class_name = "MllamaCrossAttentionDecoderLayer";
  static_assert(C::template mlp<C>::width == C::hidden, "CrossAttentionLayer<C>: C::mlp must take rows of C::hidden");
  TextCrossAttention<C> cross_attn{{.q_norm = {{.eps = C::norm_eps}}, .k_norm = {{.eps = C::norm_eps}}}};
  TextRMSNorm<C::hidden> input_layernorm{{.eps = C::norm_eps}}, post_attention_layernorm{{.eps = C::norm_eps}};
  typename C::template mlp<C> mlp{};
  TanhGate cross_attn_attn_gate{}, cross_attn_mlp_gate{};

  static constexpr void visit(auto& self, auto&& member) {
    member("cross_attn", self.cross_attn);
    member("input_layernorm", self.input_layernorm);
    member("cross_attn_attn_gate", self.cross_attn_attn_gate);
    member("mlp", self.mlp);
    member("post_attention_layernorm", self.post_attention_layernorm);
    member("cross_attn_mlp_gate", self.cross_attn_mlp_gate);
  }

  template <class Ctx>
  void operator()(TextStates<C> x, std::span<const ImageRows> rows, const CrossRowMasks& masks, Ctx& ctx) const {
    cross_attn.add(ctx.shown("input_layernorm", input_layernorm(x, ctx)), rows,
                   {x, cross_attn_attn_gate.shown("cross_attn_attn_gate", ctx), masks.attention}, ctx);
    ctx.tap({"attended"}, x);
    mlp.add(ctx.shown("post_attention_layernorm", post_attention_layernorm(x, ctx)),
            {x, cross_attn_mlp_gate.shown("cross_attn_mlp_gate", ctx), masks.mlp}, ctx);
  }
};

/// The layers of both kinds, in the order of the schedule. Each kind is one array, so that it is compiled once.
template <class C>
struct TextLayers {
  static constexpr std::string_view class_name = "ModuleList";
  std::array<SelfAttentionLayer<C>, TextShape<C>::self_layers> self{};
  std::array<CrossAttentionLayer<C>, TextShape<C>::cross_layers> cross{};

  static constexpr void visit(auto& layers, auto&& member) {
    std::size_t position = 0;
    for (const LayerSlot slot : TextShape<C>::schedule) {
      const IndexKey key(position++);
      if (slot.cross) {
        member(key, layers.cross[slot.index]);
      } else {
        member(key, layers.self[slot.index]);
      }
    }
  }
};

/// The language model without its head.
/// Shapes:  batch (tokens) -> hidden states (tokens, hidden), before the final norm
template <class C>
struct TextModel {
  static constexpr std::string_view class_name = "MllamaTextModel";
  using Shape = TextShape<C>;

  Embedding<C::vocab + C::extra_embeddings, C::hidden, typename C::embedding_weights> embed_tokens{.padding_index = C::pad_token};
  TextLayers<C> layers{};
  TextRMSNorm<C::hidden> norm{{.eps = C::norm_eps}};
  RotaryEmbedding<Shape::head_dim> rotary_emb{.theta = C::rope_theta, .scaling = C::rope_scaling};

  static constexpr void visit(auto& self, auto&& member) {
    member("embed_tokens", self.embed_tokens);
    member("layers", self.layers);
    member("norm", self.norm);
    member("rotary_emb", self.rotary_emb);
  }

  template <class Ctx>
  [[nodiscard]] Tensor<float, Tokens, Dim<C::hidden>> operator()(const TextBatch<C>& batch, const Numerics& numerics,
                                                                 Ctx& ctx) const {
    std::size_t image_count = 0;
    for (const TextSequence<C>& sequence : batch.sequences) {
      sequence.cache->reserve(sequence.cache->length() + sequence.rows);
      image_count += sequence.images.size();
    }
    auto x = embed_tokens.template rows<Tokens>(batch.ids, ctx);
    ctx.tap({"hidden_states", 0}, x.view());
    const auto angles = rotary_emb(batch.positions, ctx);
    const RowMaskTables masks(batch, numerics, ctx);
    auto text_rows = ctx.template tensor<CachedRows, Rows>({batch.sequences.size()});
    auto image_rows = ctx.template tensor<ImageRows, Rows>({batch.sequences.size()});
    auto blocks = ctx.template tensor<kernels::KeyBlock, Rows>({image_count});

    std::size_t position = 0;
    for (const LayerSlot slot : std::span(Shape::schedule).template first<Shape::depth>()) {
      ++position;
      [[maybe_unused]] const auto layer = ctx.layer(position - 1);
      if (slot.cross) {
        if (image_count == 0) continue;  // a run without pictures is plain Llama
        point_at_images(batch, slot.index, blocks.flat(), image_rows.flat());
        if constexpr (Shape::cross_layers != 0) layers.cross[slot.index](x, image_rows.flat(), masks, ctx);
      } else {
        point_at_cache(batch, slot.index, text_rows.flat());
        layers.self[slot.index](x, angles, text_rows.flat(), ctx);
      }
      ctx.tap({"hidden_states", position}, x.view());
    }
    for (const TextSequence<C>& sequence : batch.sequences) sequence.cache->advance(sequence.rows);
    return x;
  }

 private:
  /// A row that sees no picture is left alone by both branches of a cross-attention layer; with numerics that do not zero it, only
  /// by the MLP. The rows of a sequence without pictures always pass unchanged.
  struct RowMaskTables {
    Tensor<std::uint8_t, Rows> attention, mlp;

    template <class Ctx>
    RowMaskTables(const TextBatch<C>& batch, const Numerics& numerics, Ctx& ctx)
        : attention(ctx.template tensor<std::uint8_t, Rows>({batch.ids.size()})),
          mlp(ctx.template tensor<std::uint8_t, Rows>({batch.ids.size()})) {
      std::size_t row = 0;
      for (const TextSequence<C>& sequence : batch.sequences) {
        for (std::size_t r = 0; r < sequence.rows; ++r, ++row) {
          const bool has_images = !sequence.images.empty(), sees = has_images && sequence.sees_image[r] != 0;
          mlp.data()[row] = sees ? 1 : 0;
          attention.data()[row] = sees || (has_images && !numerics.zero_masked_cross_rows) ? 1 : 0;
        }
      }
    }
    operator CrossRowMasks() const noexcept { return {attention.flat(), mlp.flat()}; }  // NOLINT(google-explicit-constructor)
  };

  static void point_at_cache(const TextBatch<C>& batch, std::size_t layer, std::span<CachedRows> rows) {
    std::size_t first = 0;
    for (std::size_t s = 0; s < rows.size(); ++s) {
      const TextSequence<C>& sequence = batch.sequences[s];
      KeyValueCache<C>& cache = *sequence.cache;
      rows[s] = {first, sequence.rows, cache.length(), &cache.keys(layer), &cache.values(layer)};
      first += sequence.rows;
    }
  }

  static void point_at_images(const TextBatch<C>& batch, std::size_t layer, std::span<kernels::KeyBlock> blocks,
                              std::span<ImageRows> rows) {
    std::size_t first = 0;
    for (std::size_t s = 0; s < rows.size(); ++s) {
      const TextSequence<C>& sequence = batch.sequences[s];
      const auto images = blocks.first(sequence.images.size());
      blocks = blocks.subspan(images.size());
      for (std::size_t i = 0; i < images.size(); ++i) images[i] = sequence.images[i]->block(layer);
      rows[s] = {first, sequence.rows, images, sequence.visible};
      first += sequence.rows;
    }
  }
};

/// The head of the language model in two stages.
template <class C>
using ScreenedLogits = ScreenedHead<typename C::head_weights, C::hidden, C::vocab>;

/// The language model with its head.
template <class C>
struct CausalLM {
  static constexpr std::string_view class_name = "MllamaForCausalLM";
  TextModel<C> model{};
  Linear<typename C::head_weights, C::hidden, C::vocab> lm_head{};

  static constexpr void visit(auto& self, auto&& member) {
    member("model", self.model);
    member("lm_head", self.lm_head);
  }

  /// Logits of rows of hidden states.
  /// Shapes:  states (tokens, hidden) -> (tokens, vocab)
  template <class Ctx>
  [[nodiscard]] Tensor<float, Tokens, Dim<C::vocab>> logits(View<const float, Tokens, Dim<C::hidden>> states, Ctx& ctx) const {
    auto y = lm_head(ctx.shown("norm", model.norm(states, ctx)), ctx);
    ctx.tap({"logits"}, y.view());
    return y;
  }
  /// The same by a screened head: the `candidates` largest of each row.
  template <class Ctx>
  [[nodiscard]] Tensor<float, Tokens, Dim<C::vocab>> logits(View<const float, Tokens, Dim<C::hidden>> states,
                                                            const ScreenedLogits<C>& head, std::size_t candidates, Ctx& ctx) const {
    auto y = ctx.template tensor<float, Tokens, Dim<C::vocab>>({states.rows()});
    head.into(ctx.shown("norm", model.norm(states, ctx)), candidates, y, ctx);
    ctx.tap({"logits"}, y.view());
    return y;
  }
};

}  // namespace mllama
