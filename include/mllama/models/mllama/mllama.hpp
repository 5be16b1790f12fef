// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include <mllama/core/check.hpp>
#include <mllama/core/context.hpp>
#include <mllama/core/visit.hpp>
#include <mllama/models/mllama/cache.hpp>
#include <mllama/models/mllama/config.hpp>
#include <mllama/models/mllama/projector.hpp>
#include <mllama/models/mllama/text.hpp>
#include <mllama/models/mllama/vision.hpp>

/// Its taps (see core/context.hpp), with the layer's position behind a point; axes are types.
///
/// | tap | shows | axes |
/// | --- | --- | --- |
/// | `hidden_states.i` | text, as it enters layer i; after the last layer, too | Tokens, hidden |
/// | `attended.i` | text, between the two branches of layer i | Tokens, hidden |
/// | `input_layernorm.i`, `post_attention_layernorm.i` | after the norm | Tokens, hidden |
/// | `self_attention.i` | probabilities; keys are the positions of the sequence so far | heads, Tokens, Tokens |
/// | `cross_attention.i` | probabilities; keys of several pictures one after the other | heads, Tokens, ImageTokens |
/// | `q_norm.i` | queries of cross-attention | Tokens, hidden |
/// | `k_norm.i`, `v_proj.i` | its keys and values | ImageTokens, kv_heads · head_dim |
/// | `cross_attn_attn_gate.i`, `cross_attn_mlp_gate.i` | the factor: the parameter's tanh | 1 |
/// | `norm`, `logits` | of the rows whose logits are computed | Tokens, hidden; Tokens, vocab |
/// | `layernorm_pre.t` | tile t of a picture, embedded | ImagePositions, hidden |
/// | `vision_states.i` | as they enter layer i, first of the local, then of the global encoder | ImagePositions, hidden |
/// | `vision_attended.i` | between the two branches of layer i | ImagePositions, hidden |
/// | `vision_input_layernorm.i`, `vision_post_attention_layernorm.i` | after the norm | ImagePositions, hidden |
/// | `vision_attention.i` | probabilities | heads, ImagePositions, ImagePositions |
/// | `gate_attn.i`, `gate_ffn.i` | of the global encoder, as above | 1 |
/// | `transformer`, `global_transformer` | as they leave the encoder | ImagePositions, hidden |
/// | `layernorm_post` | between the encoders | ImagePositions, hidden |
/// | `vision_output` | with the intermediate states | ImageTokens, vision output |
/// | `cross_attention_states` | after the projector | ImageTokens, hidden |

namespace mllama {

/// Mllama (Llama 3.2 Vision) of two configurations; `Profile` names the numerics, see `namespace profile`.
/// Source:  transformers' MllamaForConditionalGeneration
template <class VisionC, class TextC, class Profile = profile::meta>
struct Mllama {
  static constexpr std::string_view class_name = "MllamaForConditionalGeneration";
  using Vision = VisionC;
  using Text = TextC;
  static constexpr Numerics numerics = Profile::numerics;
  /// The same model of other configurations.
  template <class OtherVision, class OtherText>
  using with = Mllama<OtherVision, OtherText, Profile>;

  using VisionPart = typename Vision::template model<Vision>;
  using ProjectorPart = typename Vision::template projector<Vision, Text>;
  static_assert(ProjectorPart::inputs == VisionPart::outputs,
                "Mllama<VisionC, TextC>: VisionC::projector must take rows as wide as VisionC::model makes them");
  static_assert(ProjectorPart::outputs == Text::hidden,
                "Mllama<VisionC, TextC>: VisionC::projector must make rows of TextC::hidden for the cross-attention layers");

  VisionPart vision_model{};
  CausalLM<Text> language_model{};
  ProjectorPart multi_modal_projector{};

  static constexpr void visit(auto& self, auto&& member) {
    member("vision_model", self.vision_model);
    member("language_model", self.language_model);
    member("multi_modal_projector", self.multi_modal_projector);
  }

  /// Whether the vision part has weights: a save of the text model alone has none.
  [[nodiscard]] bool has_vision() const noexcept { return loaded(multi_modal_projector); }
  /// Errors:  input_error that names `input` if there is no vision part to run it.
  void require_vision(std::string_view input) const {
    check(has_vision(), [&] {
      return Fault{.field = std::string(input),
                   .expected = "none",
                   .found = "at least one",
                   .note = "this folder has no vision model, only the language model"};
    });
  }

  /// What cross-attention reads of a picture.
  /// Shapes:  tiles of one picture -> (image tokens, text hidden)
  /// Errors:  input_error if the model has no vision part.
  template <class Ctx>
  [[nodiscard]] Tensor<float, ImageTokens, Dim<Text::hidden>> cross_attention_states(const PictureTiles<Vision>& picture,
                                                                                     const Numerics& as, Ctx& ctx) const {
    require_vision("images");
    auto projected = ctx.template tensor<float, ImageTokens, Dim<Text::hidden>>({VisionShape<Vision>::image_tokens});
    multi_modal_projector.into(vision_model(picture, as, ctx), projected, ctx);
    ctx.tap({"cross_attention_states"}, projected.view());
    return projected;
  }

  /// A picture's keys and values in every cross-attention layer: all that text ever needs of it.
  /// Errors:  input_error if the model has no vision part.
  /// Costs:   the vision model; allocates 8 · kv_width · image tokens · cross layers bytes that are kept, or fewer: Context::key_format
  template <class Ctx>
  [[nodiscard]] EncodedImage<Text> encode(const PictureTiles<Vision>& picture, const Numerics& as, Ctx& ctx) const {
    EncodedImage<Text> image;
    image.tile_positions = VisionShape<Vision>::positions;
    for (const bool real : picture.real_tiles) image.tiles += real ? 1 : 0;
    const auto states = cross_attention_states(picture, as, ctx);
    image.positions = states.rows();
    using KeyTensor = Tensor<float, ImageTokens, Dim<TextShape<Text>::kv_width>>;
    KeyTensor keys(ctx.workspace(), {states.rows()}), values(ctx.workspace(), {states.rows()});
    for (std::size_t i = 0; i < image.layers.size(); ++i) {
      [[maybe_unused]] const auto layer = ctx.layer(static_cast<std::size_t>(Text::cross[i]));
      language_model.model.layers.cross[i].cross_attn.encode(states, keys, values, ctx);
      const auto keep = [&](kernels::KeptKeys& to, const KeyTensor& from) {
        constexpr kernels::KeyShape shape = TextShape<Text>::keys;
        to = kernels::KeptKeys(ctx.key_format(), shape, from.rows(), ctx.memory());
        kernels::keep(ctx, to, shape, 0, from.rows(), from.data());
      };
      keep(image.layers[i].keys, keys);
      keep(image.layers[i].values, values);
    }
    return image;
  }

  /// Hidden states of a packed batch after the last layer, before the final norm; `language_model.logits` makes logits of them.
  /// Errors:  input_error if an id is not in the embedding table.
  template <class Ctx>
  [[nodiscard]] Tensor<float, Tokens, Dim<Text::hidden>> forward(const TextBatch<Text>& batch, const Numerics& as, Ctx& ctx) const {
    constexpr int ids = Text::vocab + Text::extra_embeddings;
    for (std::size_t i = 0; i < batch.ids.size(); ++i) {
      check(0 <= batch.ids[i] && batch.ids[i] < ids, [&] {
        return Fault{
            .field = concat("input_ids[", i, "]"), .expected = concat("an id from 0 to ", ids - 1), .found = concat(batch.ids[i])};
      });
    }
    return language_model.model(batch, as, ctx);
  }
};

/// The released models. Names are those of the model hub, in lower case.
struct Llama32Vision11B : Mllama<Vision560, Text11B> {
  static constexpr std::string_view name = "llama-3.2-11b-vision-instruct";
};
struct Llama32Vision11BBase : Mllama<Vision448, Text11B> {
  static constexpr std::string_view name = "llama-3.2-11b-vision";
};
struct Llama32Vision90B : Mllama<Vision560, Text90B> {
  static constexpr std::string_view name = "llama-3.2-90b-vision-instruct";
};

}  // namespace mllama
