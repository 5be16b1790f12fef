// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <mllama/generate/picture.hpp>

#include "padded_prompt.hpp"
#include "tiny_folder.hpp"

using namespace mllama;
using namespace mllama_test;

namespace {

constexpr std::uint32_t seed = 67;

ImageProcessor processor(std::size_t tile = TinyVision::image, std::size_t tiles = TinyVision::tiles) {
  ProcessorConfig config;
  config.tile = tile;
  config.max_tiles = tiles;
  return ImageProcessor(config);
}

}  // namespace

TEST_CASE("a picture's keys and values are those of its tiles, empty ones being 0") {
  const auto random = random_weights<Tiny>(seed);
  Context ctx(1);
  for (const auto& [width, height, ratio] : {std::array<std::size_t, 3>{20, 20, 1}, {60, 25, 2}, {25, 60, 3}}) {
    const Image picture = gradient(width, height, seed);
    const auto found = encode_picture(*random.model, processor(), picture, ctx);
    RandomPicture tiles(0, 1);
    std::ranges::fill(tiles.pixels(), 0.0F);
    const TileSet set = processor().tiles(picture);
    std::ranges::copy(set.pixels, tiles.pixels().begin());
    tiles.tiles().aspect_ratio_id = ratio;
    tiles.tiles().real_tiles = {true, ratio != 1};
    const auto expected = encoded(*random.model, tiles, Tiny::numerics, ctx);
    CHECK(found->tiles == (ratio == 1 ? 1 : 2));
    for (std::size_t layer = 0; layer < found->layers.size(); ++layer) {
      CHECK(same(mllama_test::keys_of(*found, layer), mllama_test::keys_of(*expected, layer)));
      CHECK(same(mllama_test::values_of(*found, layer), mllama_test::values_of(*expected, layer)));
    }
  }
}

TEST_CASE("pictures and processors that do not fit") {
  const auto random = random_weights<Tiny>(seed);
  Context ctx(1);
  const auto fault = [&](const ImageProcessor& other, const Image& picture) {
    return refused([&] { static_cast<void>(encode_picture(*random.model, other, picture, ctx)); });
  };
  CHECK(fault(processor(42), gradient(9, 9, 1)).expected == "2 tiles of 28 pixels");
  CHECK(fault(processor(28, 4), gradient(9, 9, 1)).found == "4 of 28");
  CHECK(fault(processor(), Image{}).field == "image");
  Image cut = gradient(9, 9, 1);
  cut.pixels.pop_back();
  CHECK(fault(processor(), cut).field == "image");
}
