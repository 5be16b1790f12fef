// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <memory_resource>

#include <mllama/core/check.hpp>
#include <mllama/models/mllama/mllama.hpp>
#include <mllama/vision/image.hpp>
#include <mllama/vision/processor.hpp>

namespace mllama {

/// A picture's keys and values in a model, shared by any number of conversations.
template <class Model>
using Picture = std::shared_ptr<const EncodedImage<typename Model::Text>>;

/// From pixels to keys and values: processor, vision model, projector, cross-attention's key and value products.
/// Errors:  input_error if the processor's tiles are not the model's, or the picture cannot be cut into tiles.
template <class Model, class Ctx>
[[nodiscard]] Picture<Model> encode_picture(const Model& model, const ImageProcessor& processor, const Image& image, Ctx& ctx,
                                            const Numerics& numerics = Model::numerics) {
  using C = typename Model::Vision;
  const auto& config = processor.config();
  check(config.tile == C::image && config.max_tiles == C::tiles, [&] {
    return Fault{.field = "processor",
                 .expected = concat(C::tiles, " tiles of ", C::image, " pixels"),
                 .found = concat(config.max_tiles, " of ", config.tile)};
  });
  const TileSet set = processor.tiles(image);
  using Pixels = Tensor<float, Dim<C::tiles>, Dim<C::channels>, Dim<C::image>, Dim<C::image>>;
  Pixels pixels(typename Pixels::Lengths{}, ctx.memory());
  pixels.fill(0);
  std::ranges::copy(set.pixels, pixels.data());
  PictureTiles<C> tiles{.pixels = pixels, .aspect_ratio_id = set.aspect_ratio_id, .real_tiles = {}};
  std::fill_n(tiles.real_tiles.begin(), set.num_tiles(), true);
  return std::allocate_shared<const EncodedImage<typename Model::Text>>(std::pmr::polymorphic_allocator<>(&ctx.memory()),
                                                                        model.encode(tiles, numerics, ctx));
}

}  // namespace mllama
