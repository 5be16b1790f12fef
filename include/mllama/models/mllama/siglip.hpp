// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstddef>
#include <string>
#include <string_view>

#include <mllama/core/context.hpp>
#include <mllama/core/visit.hpp>
#include <mllama/kernels/attention.hpp>
#include <mllama/kernels/patch_embedding.hpp>
#include <mllama/layers/embedding.hpp>
#include <mllama/layers/linear.hpp>
#include <mllama/layers/mlp.hpp>
#include <mllama/layers/norm.hpp>
#include <mllama/layers/visibility.hpp>
#include <mllama/models/mllama/projector.hpp>
#include <mllama/models/mllama/vision.hpp>

/// SigLIP's vision model in the place of Mllama's: one picture, no tiles, no class token, no states but the last.
/// Source:  Zhai et al. 2023 (arXiv:2303.15343);  transformers' SiglipVisionTransformer without its pooling head

namespace mllama {

/// The convolution of the patches, with a bias.
template <class C>
struct SiglipPatchEmbedding {
  Parameter<StoredFloat, C::hidden, C::channels, C::patch, C::patch> weight{};
  Vector<C::hidden> bias{};

  static constexpr void visit(auto& self, auto&& member) {
    member("weight", self.weight);
    member("bias", self.bias);
  }
  static std::string repr(const auto&) {
    return concat("Conv2d(", C::channels, ", ", C::hidden, ", kernel_size=(", C::patch, ", ", C::patch, "), stride=(", C::patch,
                  ", ", C::patch, "), padding=valid)");
  }
};

/// Patches of a picture and their positions.
template <class C>
struct SiglipEmbeddings {
  static constexpr std::string_view class_name = "SiglipVisionEmbeddings";
  using Shape = VisionShape<C>;
  SiglipPatchEmbedding<C> patch_embedding{};
  Embedding<Shape::patches, C::hidden> position_embedding{};

  static constexpr void visit(auto& self, auto&& member) {
    member("patch_embedding", self.patch_embedding);
    member("position_embedding", self.position_embedding);
  }

  template <class Ctx>
  void operator()(const float* picture, View<float, ImageTokens, Dim<C::hidden>> x, Ctx& ctx) const {
    auto patches = ctx.template tensor<float, Dim<Shape::patches>, Dim<Shape::patch_elements>>({});
    kernels::extract_patches(ctx, picture, C::channels, C::image, C::patch, patches);
    kernels::matmul(ctx, patches, patch_embedding.weight.weights, {.bias = patch_embedding.bias.data()}, x);
    position_embedding.add_to(x.flat(), 0, 0, 1, ctx);
  }
};

/// Attention of all patches to all, with biases.
template <class C>
struct SiglipAttention {
  static constexpr std::string_view class_name = "SiglipAttention";
  using Projection = Linear<typename C::weights, C::hidden, C::hidden, true>;
  Projection k_proj{}, v_proj{}, q_proj{}, out_proj{};

  static constexpr void visit(auto& self, auto&& member) {
    member("k_proj", self.k_proj);
    member("v_proj", self.v_proj);
    member("q_proj", self.q_proj);
    member("out_proj", self.out_proj);
  }

  template <class X, class Ctx>
  void add(const X& x, const Residual<row_axis<X>, C::hidden>& to, Ctx& ctx) const {
    const auto [q, k, v] = project(x, ctx, q_proj, k_proj, v_proj);
    auto mixed = ctx.template tensor<float, row_axis<X>, Dim<C::hidden>>({x.rows()});
    const kernels::KeyBlock block{k.data(), v.data(), x.rows()};
    const VisibilityTables visible = see_everything(x.rows(), {&block, 1}, ctx);
    kernels::attention(ctx, {C::heads, C::heads, C::hidden / C::heads}, q, {&block, 1}, visible, mixed);
    out_proj.add(mixed, to, ctx);
  }
};

template <class C>
struct SiglipEncoderLayer {
  static constexpr std::string_view class_name = "SiglipEncoderLayer";
  struct Perceptron : MLP<typename C::weights, C::hidden, C::inner, typename C::activation> {
    static constexpr std::string_view class_name = "SiglipMLP";
  };
  LayerNorm<C::hidden> layer_norm1{.eps = C::norm_eps};
  SiglipAttention<C> self_attn{};
  LayerNorm<C::hidden> layer_norm2{.eps = C::norm_eps};
  Perceptron mlp{};

  static constexpr void visit(auto& self, auto&& member) {
    member("layer_norm1", self.layer_norm1);
    member("self_attn", self.self_attn);
    member("layer_norm2", self.layer_norm2);
    member("mlp", self.mlp);
  }

  template <class Ctx>
  void operator()(View<float, ImageTokens, Dim<C::hidden>> x, Ctx& ctx) const {
    self_attn.add(layer_norm1(x, ctx), {x}, ctx);
    mlp.add(layer_norm2(x, ctx), {x}, ctx);
  }
};

template <class C>
struct SiglipEncoder {
  static constexpr std::string_view class_name = "SiglipEncoder";
  std::array<SiglipEncoderLayer<C>, static_cast<std::size_t>(C::layers)> layers{};

  static constexpr void visit(auto& self, auto&& member) { member("layers", self.layers); }
};

/// Shapes:  picture (1, channels, image, image) -> vision states (patches, hidden); a rest of the picture that is no patch is not seen
template <class C>
struct SiglipVisionModel {
  static_assert(C::tiles == 1, "SiglipVisionModel<C>: a picture is one tile");
  static_assert(!C::class_token, "SiglipVisionModel<C>: there is no class token");
  static constexpr std::string_view class_name = "SiglipVisionTransformer";
  static constexpr int outputs = C::hidden;
  static constexpr std::size_t picture_rows = VisionShape<C>::patches;  ///< of the encoder

  SiglipEmbeddings<C> embeddings{};
  SiglipEncoder<C> encoder{};
  LayerNorm<C::hidden> post_layernorm{.eps = C::norm_eps};

  static constexpr void visit(auto& self, auto&& member) {
    member("embeddings", self.embeddings);
    member("encoder", self.encoder);
    member("post_layernorm", self.post_layernorm);
  }

  template <class Ctx>
  [[nodiscard]] Tensor<float, ImageTokens, Dim<outputs>> operator()(const PictureTiles<C>& picture, const Numerics&,
                                                                    Ctx& ctx) const {
    auto x = ctx.template tensor<float, ImageTokens, Dim<outputs>>({VisionShape<C>::patches});
    embeddings(picture.pixels.data(), x, ctx);
    std::size_t depth = 0;
    for (const auto& layer : encoder.layers) {
      ctx.tap({"vision_states", depth++}, x.view());
      layer(x, ctx);
    }
    post_layernorm.in_place(x, ctx);
    ctx.tap({"vision_output"}, x.view());
    return x;
  }
};

/// What configurations with this vision model have in common; what they leave open is as in VisionConfig.
/// Key:  config.json, `vision_config` with the model_type `siglip_vision_model`
struct SiglipConfig : VisionConfig {
  using activation = TanhGELU;
  static constexpr int tiles = 1, global_layers = 0;
  static constexpr bool class_token = false;
  static constexpr double norm_eps = 1e-6;
  static constexpr std::array<int, 0> intermediate{};
  static constexpr std::array aspect_ratios{TileGrid{1, 1}};
  template <class C>
  using model = SiglipVisionModel<C>;
  template <class VisionC, class TextC>
  using projector = TwoLayerProjector<VisionC, TextC>;
};

}  // namespace mllama
