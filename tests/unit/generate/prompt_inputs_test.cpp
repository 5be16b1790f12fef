// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <string>
#include <vector>

#include <mllama/generate/prompt_inputs.hpp>

#include "padded_prompt.hpp"

using namespace mllama;
using namespace mllama_test;

namespace {

constexpr std::uint32_t seed = 97;

Image noise(std::size_t width, std::size_t height) {
  Image picture(width, height);
  for (std::size_t i = 0; i < picture.pixels.size(); ++i) picture.pixels[i] = static_cast<std::uint8_t>(i * i % 251);
  return picture;
}

}  // namespace

TEST_CASE("inputs of a prompt give what a session gives, token by token") {
  const auto random = random_weights<Tiny>(seed);
  const Tiny& model = *random.model;
  const ImageProcessor processor({.tile = TinyVision::image, .max_tiles = TinyVision::tiles});
  const std::vector<Image> images{noise(20, 20), noise(50, 22)};
  Context ctx(1);
  for (const std::size_t count : {0U, 1U, 2U}) {
    for (const Numerics& numerics : all_profiles) {
      CAPTURE(count);
      Ids ids{4, 5};
      std::vector<TinyPicture> pictures;
      std::vector<TileSet> tiles;
      for (std::size_t i = 0; i < count; ++i) {
        ids.insert(ids.end(), {image, 6});
        pictures.push_back(encode_picture(model, processor, images[i], ctx, numerics));
        tiles.push_back(processor.tiles(images[i]));
      }
      Session session(model, ctx, numerics);
      PromptInputs inputs(ids, processor.pack({{tiles}}), image);
      const auto last = [&](std::span<const float> logits) {
        const auto padded = PaddedRun<Tiny>(model, numerics).prompt(inputs.padded(), ctx);
        CHECK(difference(padded.flat().last(TinyText::vocab), logits) < reordered);
      };
      last(session.append(ids, pictures));
      for (const std::int32_t id : {7, 8}) {
        inputs.append(id);
        last(session.append({&id, 1}));
      }
      CHECK(inputs.ids().size() == ids.size() + 2);
    }
  }
  CHECK(refused([&] { PromptInputs(Ids{4, image}, {}, image); }).field == "input_ids");
  CHECK(refused([&] { PromptInputs(Ids{4}, processor.pack({{{processor.tiles(images[0])}}}), image); }).found == "0");
}
