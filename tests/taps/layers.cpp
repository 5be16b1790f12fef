// SPDX-License-Identifier: MIT
// What a context without an observer runs: every layer with a tap, and the models that put them together.

#include <cstddef>
#include <cstdint>
#include <span>

#include <mllama/models/mllama/mllama.hpp>

namespace taps_test {

struct Vision : mllama::VisionConfig {
  using weights = mllama::F32;
  static constexpr int image = 28, tiles = 2;
  static constexpr int hidden = 12, inner = 20, heads = 2, layers = 3, global_layers = 2;
  static constexpr std::array intermediate{0, 1};
  static constexpr std::array aspect_ratios{mllama::TileGrid{1, 1}, mllama::TileGrid{1, 2}, mllama::TileGrid{2, 1}};
};
struct Text : mllama::TextConfig {
  using weights = mllama::F32;
  using head_weights = mllama::F32;
  static constexpr int vocab = 513;
  static constexpr int hidden = 24, inner = 40, heads = 4, kv_heads = 2, layers = 5;
  static constexpr std::array cross{1, 3};
};
using Model = mllama::Mllama<Vision, Text>;
using Ctx = mllama::Context<mllama::reference>;
using Hidden = mllama::Dim<Text::hidden>;

extern const Model model;
extern Ctx ctx;

void self_attention_layer(mllama::View<float, mllama::Tokens, Hidden> x,
                          mllama::View<const float, mllama::Tokens, mllama::Dim<mllama::TextShape<Text>::head_dim>> angles,
                          std::span<const mllama::CachedRows> rows) {
  model.language_model.model.layers.self[0](x, angles, rows, ctx);
}
void cross_attention_layer(mllama::View<float, mllama::Tokens, Hidden> x, std::span<const mllama::ImageRows> rows,
                           const mllama::CrossRowMasks& masks) {
  model.language_model.model.layers.cross[0](x, rows, masks, ctx);
}
void vision_layers(mllama::View<float, mllama::ImagePositions, mllama::Dim<Vision::hidden>> x,
                   const mllama::kernels::Visibility& visible) {
  model.vision_model.transformer.layers[0](x, visible, ctx);
  model.vision_model.global_transformer.layers[0](x, visible, ctx);
}
mllama::EncodedImage<Text> encode(const mllama::PictureTiles<Vision>& picture) {
  return model.encode(picture, Model::numerics, ctx);
}
mllama::Tensor<float, mllama::Tokens, Hidden> forward(const mllama::TextBatch<Text>& batch) {
  return model.forward(batch, Model::numerics, ctx);
}
mllama::Tensor<float, mllama::Tokens, mllama::Dim<Text::vocab>> logits(mllama::View<const float, mllama::Tokens, Hidden> states) {
  return model.language_model.logits(states, ctx);
}

}  // namespace taps_test
