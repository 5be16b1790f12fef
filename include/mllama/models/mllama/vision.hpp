// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include <mllama/core/context.hpp>
#include <mllama/core/visit.hpp>
#include <mllama/kernels/patch_embedding.hpp>
#include <mllama/layers/attention.hpp>
#include <mllama/layers/embedding.hpp>
#include <mllama/layers/gate.hpp>
#include <mllama/layers/linear.hpp>
#include <mllama/layers/mlp.hpp>
#include <mllama/layers/norm.hpp>
#include <mllama/models/mllama/config.hpp>

/// The vision model of Mllama: tiles of a picture in, vision states out.
/// Source:  transformers' MllamaVisionModel; keys below `vision_model.`

namespace mllama {

/// Sizes that follow from a vision configuration.
template <class C>
struct VisionShape {
  static constexpr int grid = C::image / C::patch;
  static constexpr int patches = grid * grid;
  static constexpr int positions = patches + (C::class_token ? 1 : 0);  ///< of a tile: its patches and the class token
  static constexpr int padded = (positions + 7) / 8 * 8;                ///< of a tile inside the encoders
  static constexpr int patch_elements = C::channels * C::patch * C::patch;
  static constexpr int output = C::hidden * (1 + static_cast<int>(C::intermediate.size()));  ///< vision_output_dim
  static constexpr int image_tokens = C::tiles * positions;

  static_assert(C::hidden % C::heads == 0, "VisionConfig: hidden must be a multiple of heads");
  // Names, because Clang prints the condition of an assertion, lambda and all, before its sentence.
  static constexpr bool intermediate_fits =
      std::all_of(C::intermediate.begin(), C::intermediate.end(), [](int i) { return 0 <= i && i <= C::layers; });
  static constexpr bool aspect_ratios_fit = std::all_of(C::aspect_ratios.begin(), C::aspect_ratios.end(), [](TileGrid g) {
    return g.rows > 0 && g.columns > 0 && g.rows * g.columns <= C::tiles;
  });
  static_assert(intermediate_fits, "VisionConfig: intermediate lists layers of the local encoder, or its end");
  static_assert(aspect_ratios_fit, "VisionConfig: an aspect ratio has at most `tiles` tiles");
};

/// A convolution whose kernel is its stride: a product with flattened patches. Has no bias.
/// Shapes:  picture (channels, image, image) -> (patches, hidden);  weight (hidden, channels, patch, patch)
template <class C>
struct PatchEmbedding {
  Parameter<StoredFloat, C::hidden, C::channels, C::patch, C::patch> weight{};

  static constexpr void visit(auto& self, auto&& member) { member("weight", self.weight); }
  static std::string repr(const auto&) {
    return concat("Conv2d(", C::channels, ", ", C::hidden, ", kernel_size=(", C::patch, ", ", C::patch, "), stride=(", C::patch,
                  ", ", C::patch, "), padding=valid, bias=False)");
  }

  template <class Ctx>
  void operator()(const float* picture, Matrix<float> out, Ctx& ctx) const {
    auto patches = ctx.template tensor<float, Dim<VisionShape<C>::patches>, Dim<VisionShape<C>::patch_elements>>({});
    kernels::extract_patches(ctx, picture, C::channels, C::image, C::patch, patches);
    kernels::matmul(ctx, patches, weight.weights, {}, out);
  }
};

/// Learned vector per aspect ratio and tile, added to every position of the tile through a gate.
template <class C>
struct AspectRatioEmbedding {
  static constexpr std::string_view class_name = "MllamaPrecomputedAspectRatioEmbedding";
  Embedding<static_cast<int>(C::aspect_ratios.size()) + 1, C::tiles * C::hidden> embedding{};
  TanhGate gate{};

  static constexpr void visit(auto& self, auto&& member) {
    member("embedding", self.embedding);
    member("gate", self.gate);
  }

  /// Rows [first, first + count) of each tile; tiles are `stride` rows apart.
  template <class Ctx>
  void add_to(Matrix<float> x, std::size_t first, std::size_t count, std::size_t stride, std::size_t aspect_ratio_id,
              Ctx& ctx) const {
    auto vectors = ctx.template tensor<float, Dim<C::tiles>, Dim<C::hidden>>({});
    vectors.fill(0);
    embedding.add_to(vectors.flat(), aspect_ratio_id, 0, gate(), ctx);
    ctx.parallel(C::tiles * count, 16, [&](std::size_t begin, std::size_t end, unsigned) {
      for (std::size_t r = begin; r < end; ++r) {
        const float* vector = vectors[r / count].data();
        float* row = x[r / count * stride + first + r % count];
        for (std::size_t i = 0; i < C::hidden; ++i) row[i] += vector[i];
      }
    });
  }
};

/// Learned vector per position of a tile, and one per aspect ratio, tile and position; a gate weighs the two against each other.
template <class C>
struct PositionEmbedding {
  static constexpr std::string_view class_name = "MllamaPrecomputedPositionEmbedding";
  using Shape = VisionShape<C>;
  TanhGate gate{};
  Parameter<StoredFloat, Shape::positions, C::hidden> embedding{};
  Embedding<static_cast<int>(C::aspect_ratios.size()) + 1, C::tiles * Shape::positions * C::hidden> tile_embedding{};

  static constexpr void visit(auto& self, auto&& member) {
    member("gate", self.gate);
    member("embedding", self.embedding);
    member("tile_embedding", self.tile_embedding);
  }

  /// Adds to the positions of tile `tile`.
  template <class Ctx>
  void add_to(std::span<float> x, std::size_t tile, std::size_t aspect_ratio_id, Ctx& ctx) const {
    kernels::add_scaled(ctx, embedding.weights, 0, 1 - gate(), x);
    tile_embedding.add_to(x, aspect_ratio_id, tile * x.size(), gate(), ctx);
  }
};

/// Pre-norm transformer layer; in the global encoder its two branches have gates.
/// Shapes:  x (image positions, hidden), in place
template <class C, bool Gated>
struct VisionEncoderLayer {
  static constexpr std::string_view class_name = "MllamaVisionEncoderLayer";
  struct Attention : MultiHeadAttention<typename C::weights, C::hidden, C::heads> {
    static constexpr std::string_view class_name = "MllamaVisionSdpaAttention";
  };
  struct Perceptron : MLP<typename C::weights, C::hidden, C::inner, typename C::activation> {
    static constexpr std::string_view class_name = "MllamaVisionMLP";
  };
  struct Open {
    constexpr float operator()() const { return 1; }
    constexpr float shown(std::string_view, auto&) const { return 1; }
  };
  using Gate = std::conditional_t<Gated, TanhGate, Open>;

  Attention self_attn{};
  Perceptron mlp{};
  LayerNorm<C::hidden> input_layernorm{.eps = C::norm_eps}, post_attention_layernorm{.eps = C::norm_eps};
  Gate gate_attn{}, gate_ffn{};

  static constexpr void visit(auto& self, auto&& member) {
    member("self_attn", self.self_attn);
    member("mlp", self.mlp);
    member("input_layernorm", self.input_layernorm);
    member("post_attention_layernorm", self.post_attention_layernorm);
    if constexpr (Gated) {
      member("gate_attn", self.gate_attn);
      member("gate_ffn", self.gate_ffn);
    }
  }

  template <class Ctx>
  void operator()(View<float, ImagePositions, Dim<C::hidden>> x, const kernels::Visibility& visible, Ctx& ctx) const {
    self_attn.add(ctx.shown("vision_input_layernorm", input_layernorm(x, ctx)), visible, {x, gate_attn.shown("gate_attn", ctx)},
                  ctx);
    ctx.tap({"vision_attended"}, x);
    mlp.add(ctx.shown("vision_post_attention_layernorm", post_attention_layernorm(x, ctx)), {x, gate_ffn.shown("gate_ffn", ctx)},
            ctx);
  }
};

template <class C, int Count, bool Gated>
struct VisionEncoder {
  static constexpr std::string_view class_name = "MllamaVisionEncoder";
  std::array<VisionEncoderLayer<C, Gated>, static_cast<std::size_t>(Count)> layers{};

  static constexpr void visit(auto& self, auto&& member) { member("layers", self.layers); }
};

/// Tiles of one picture as the processor makes them.
template <class C>
struct PictureTiles {
  View<const float, Dim<C::tiles>, Dim<C::channels>, Dim<C::image>, Dim<C::image>> pixels;  ///< normalised; unused tiles are 0
  std::size_t aspect_ratio_id = 0;          ///< 1 + index into aspect_ratios; 0 for a padding image
  std::array<bool, C::tiles> real_tiles{};  ///< aspect_ratio_mask
};

/// Shapes:  tiles (tiles, channels, image, image) -> vision states (image tokens, hidden · (1 + intermediate states))
/// Errors:  input_error if the aspect ratio id is not in the table.
/// Costs:   all tiles are computed at full length, because real positions attend to empty ones.
template <class C>
struct VisionModel {
  static_assert(C::image % C::patch == 0, "VisionConfig: image must be a multiple of patch");
  static constexpr std::string_view class_name = "MllamaVisionModel";
  using Shape = VisionShape<C>;
  static constexpr int outputs = Shape::output;
  static constexpr std::size_t picture_rows = static_cast<std::size_t>(C::tiles) * Shape::padded;  ///< of the encoders

  Vector<C::hidden> class_embedding{};
  PatchEmbedding<C> patch_embedding{};
  PositionEmbedding<C> gated_positional_embedding{};
  AspectRatioEmbedding<C> pre_tile_positional_embedding{}, post_tile_positional_embedding{};
  LayerNorm<C::hidden> layernorm_pre{}, layernorm_post{};  // their eps is fixed at 1e-5, whatever norm_eps is
  VisionEncoder<C, C::layers, false> transformer{};
  VisionEncoder<C, C::global_layers, true> global_transformer{};

  static constexpr void visit(auto& self, auto&& member) {
    member("class_embedding", self.class_embedding);
    member("patch_embedding", self.patch_embedding);
    member("gated_positional_embedding", self.gated_positional_embedding);
    member("pre_tile_positional_embedding", self.pre_tile_positional_embedding);
    member("post_tile_positional_embedding", self.post_tile_positional_embedding);
    member("layernorm_pre", self.layernorm_pre);
    member("layernorm_post", self.layernorm_post);
    member("transformer", self.transformer);
    member("global_transformer", self.global_transformer);
  }

  template <class Ctx>
  [[nodiscard]] Tensor<float, ImageTokens, Dim<Shape::output>> operator()(const PictureTiles<C>& picture, const Numerics& numerics,
                                                                          Ctx& ctx) const {
    constexpr std::size_t positions = Shape::positions, padded = Shape::padded;
    auto states = ctx.template tensor<float, ImageTokens, Dim<Shape::output>>({Shape::image_tokens});
    auto x = ctx.template tensor<float, ImagePositions, Dim<C::hidden>>({C::tiles * padded});
    embed(picture, x, ctx);

    const VisibilityTables visible = visibility(picture.real_tiles, ctx);
    const auto keep = [&](int layer, IntermediateState which) {
      for (std::size_t j = 0; j < C::intermediate.size(); ++j) {
        const bool all = which == IntermediateState::encoder_output && numerics.intermediate_state == which;
        const bool here = C::intermediate[j] == layer && (numerics.intermediate_state == which || layer == C::layers);
        if (all || here) store_intermediate(x.view(), j, states.view(), ctx);
      }
    };
    std::size_t depth = 0;
    for (int i = 0; i < C::layers; ++i) {
      ctx.tap({"vision_states", depth}, x.view());
      [[maybe_unused]] const auto layer = ctx.layer(depth++);
      keep(i - 1, IntermediateState::output);  // here, so that it is what the tap has made of it
      keep(i, IntermediateState::input);
      transformer.layers[static_cast<std::size_t>(i)](x, visible, ctx);
    }
    ctx.tap({"transformer"}, x.view());
    keep(C::layers - 1, IntermediateState::output);
    keep(C::layers, IntermediateState::encoder_output);

    layernorm_post.in_place(x, ctx);
    ctx.tap({"layernorm_post"}, x.view());
    post_tile_positional_embedding.add_to(x, 0, padded, padded, picture.aspect_ratio_id, ctx);
    for (const auto& layer : global_transformer.layers) {
      ctx.tap({"vision_states", depth}, x.view());
      [[maybe_unused]] const auto here = ctx.layer(depth++);
      layer(x, visible, ctx);
    }
    ctx.tap({"global_transformer"}, x.view());

    for (std::size_t r = 0; r < states.rows(); ++r) {
      std::copy_n(x[r / positions * padded + r % positions].data(), C::hidden, states[r].data());
    }
    ctx.tap({"vision_output"}, states.view());
    return states;
  }

 private:
  /// Patches, tile, class and position embeddings, first norm; the padding rows of each tile are zero.
  template <class Ctx>
  void embed(const PictureTiles<C>& picture, Tensor<float, ImagePositions, Dim<C::hidden>>& x, Ctx& ctx) const {
    constexpr std::size_t positions = Shape::positions, padded = Shape::padded, width = C::hidden;
    check(picture.aspect_ratio_id <= C::aspect_ratios.size(), [&] {
      return Fault{.field = "aspect_ratio_ids",
                   .expected = concat("0 to ", C::aspect_ratios.size()),
                   .found = concat(picture.aspect_ratio_id)};
    });
    for (std::size_t tile = 0; tile < C::tiles; ++tile) {
      const auto rows = x.view().slice(tile * padded, padded);
      patch_embedding(picture.pixels.data() + tile * C::channels * C::image * C::image, rows.slice(1, Shape::patches), ctx);
      std::copy_n(class_embedding.data(), width, rows.data());
      std::ranges::fill(rows.slice(positions, padded - positions).flat(), 0.0F);
    }
    pre_tile_positional_embedding.add_to(x, 1, Shape::patches, padded, picture.aspect_ratio_id, ctx);
    for (std::size_t tile = 0; tile < C::tiles; ++tile) {
      auto rows = x.view().slice(tile * padded, positions);
      gated_positional_embedding.add_to(rows.flat(), tile, picture.aspect_ratio_id, ctx);
      layernorm_pre.in_place(rows, ctx);
      ctx.tap({"layernorm_pre", tile}, rows);
    }
  }

  /// Padding is hidden from padding, and from nothing else: a real position also attends to padding rows and to empty tiles.
  template <class Ctx>
  VisibilityTables visibility(const std::array<bool, C::tiles>& real_tiles, Ctx& ctx) const {
    constexpr std::uint32_t positions = Shape::positions, padded = Shape::padded, all = C::tiles * padded;
    const auto real_count = static_cast<std::size_t>(std::ranges::count(real_tiles, true));
    VisibilityTables tables{ctx.template tensor<std::uint32_t, Rows>({all}), ctx.template tensor<std::uint32_t, Rows>({3}),
                            ctx.template tensor<kernels::KeyRange, Rows>({1 + real_count})};
    kernels::KeyRange* range = tables.ranges.data();
    *range++ = {0, 0, all};  // set 0: what a real position sees
    for (std::uint32_t tile = 0; tile < C::tiles; ++tile) {
      if (real_tiles[tile]) *range++ = {0, tile * padded, tile * padded + positions};  // set 1: what padding sees
    }
    tables.first.data()[0] = 0;
    tables.first.data()[1] = 1;
    tables.first.data()[2] = static_cast<std::uint32_t>(1 + real_count);
    for (std::uint32_t r = 0; r < all; ++r) tables.set_of_row.data()[r] = real_tiles[r / padded] && r % padded < positions ? 0 : 1;
    return tables;
  }

  /// Component d of the j-th of K kept states is feature `hidden + d·K + j`: the states are interleaved, not concatenated.
  template <class Ctx>
  static void store_intermediate(View<const float, ImagePositions, Dim<C::hidden>> x, std::size_t j,
                                 View<float, ImageTokens, Dim<Shape::output>> states, Ctx& ctx) {
    constexpr std::size_t positions = Shape::positions, padded = Shape::padded, kept = C::intermediate.size();
    ctx.parallel(states.rows(), 16, [&](std::size_t begin, std::size_t end, unsigned) {
      for (std::size_t r = begin; r < end; ++r) {
        const float* from = x[r / positions * padded + r % positions].data();
        float* to = states[r].data() + C::hidden + j;
        for (std::size_t d = 0; d < C::hidden; ++d) to[d * kept] = from[d];
      }
    });
  }
};

}  // namespace mllama
