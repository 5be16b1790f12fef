// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string_view>
#include <utility>
#include <vector>

#include <mllama/models/mllama/mllama.hpp>
#include <mllama/models/mllama/random.hpp>
#include <unit/layers/random_rows.hpp>

/// A small model that has everything the large ones have.

namespace mllama_test {

struct TinyVision : mllama::VisionConfig {
  using weights = mllama::F32;
  static constexpr int image = 28, tiles = 2;
  static constexpr int hidden = 12, inner = 20, heads = 2, layers = 3, global_layers = 2;
  static constexpr std::array intermediate{0, 1};
  static constexpr std::array aspect_ratios{mllama::TileGrid{1, 1}, mllama::TileGrid{1, 2}, mllama::TileGrid{2, 1}};
};
/// Its ids are those of the tokenizer in golden/tokenizer/small.
struct TinyText : mllama::TextConfig {
  using weights = mllama::F32;
  using head_weights = mllama::F32;
  static constexpr int vocab = 513, image_token = 513;
  static constexpr int hidden = 24, inner = 40, heads = 4, kv_heads = 2, layers = 5;
  static constexpr std::array cross{1, 3};
};
struct Tiny : mllama::Mllama<TinyVision, TinyText> {
  static constexpr std::string_view name = "tiny";
};

inline constexpr std::array all_profiles{mllama::profile::meta::numerics, mllama::profile::transformers_4_45::numerics,
                                         mllama::profile::transformers_4_55::numerics, mllama::profile::transformers_4_56::numerics,
                                         mllama::profile::meta_rows::numerics};

/// Random pixels in `tiles` side by side; the tiles that it has not are 0.
template <class C = TinyVision>
class RandomPicture {
 public:
  explicit RandomPicture(std::uint32_t seed, std::size_t tiles = 2) {
    pixels_.fill(0);
    fill_random(pixels_.flat().first(tiles * pixels_.size() / C::tiles), seed);
    tiles_ = {.pixels = pixels_, .aspect_ratio_id = tiles, .real_tiles = {}};
    std::fill_n(tiles_.real_tiles.begin(), tiles, true);
  }
  [[nodiscard]] std::span<float> pixels() noexcept { return pixels_.flat(); }
  [[nodiscard]] mllama::PictureTiles<C>& tiles() noexcept { return tiles_; }

 private:
  using Pixels =
      mllama::Tensor<float, mllama::Dim<C::tiles>, mllama::Dim<C::channels>, mllama::Dim<C::image>, mllama::Dim<C::image>>;
  Pixels pixels_{typename Pixels::Lengths{}};
  mllama::PictureTiles<C> tiles_;
};

/// Keys and values that a cross-attention layer sees of a picture, in float32.
inline std::vector<float> keys_of(const mllama::EncodedImage<TinyText>& picture, std::size_t layer, bool values = false) {
  constexpr mllama::kernels::KeyShape shape = mllama::TextShape<TinyText>::keys;
  const auto& of_layer = picture.layers[layer];
  std::vector<float> elements;
  for (std::size_t i = 0; i < picture.positions * shape.width(); ++i) {
    elements.push_back(mllama::kernels::key_element(values ? of_layer.values : of_layer.keys, shape, i / shape.width(),
                                                    i % shape.width() / shape.dim, i % shape.dim));
  }
  return elements;
}
inline std::vector<float> values_of(const mllama::EncodedImage<TinyText>& picture, std::size_t layer) {
  return keys_of(picture, layer, true);
}

}  // namespace mllama_test
