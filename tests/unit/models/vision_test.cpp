// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <map>
#include <string>
#include <vector>

#include "tiny.hpp"

using namespace mllama;
using namespace mllama_test;

namespace {

using Shape = VisionShape<TinyVision>;
using Vision = VisionModel<TinyVision>;
constexpr std::size_t width = TinyVision::hidden, kept = TinyVision::intermediate.size();

/// The states that enter the layers of both encoders.
struct Watch {
  std::map<std::size_t, std::vector<float>>* states;
  void operator()(Tap tap, const auto& view) const {
    if (tap.name == "vision_states") (*states)[tap.index].assign(view.flat().begin(), view.flat().end());
  }
};

/// The output, (image tokens, features), and the states on the way to it.
struct Result {
  std::map<std::size_t, std::vector<float>> entering;
  std::vector<float> output;

  Result(const Vision& model, const PictureTiles<TinyVision>& picture, const Numerics& numerics = {}, unsigned threads = 1) {
    Context<cpu<>, Watch> ctx(threads, Watch{&entering});
    const auto states = model(picture, numerics, ctx);
    output.assign(states.flat().begin(), states.flat().end());
  }
  /// Row r of the output without padding, in the state that enters a layer.
  [[nodiscard]] std::span<const float> row(std::size_t layer, std::size_t r) const {
    return std::span(entering.at(layer)).subspan((r / Shape::positions * Shape::padded + r % Shape::positions) * width, width);
  }
  [[nodiscard]] std::span<const float> final(std::size_t r) const { return std::span(output).subspan(r * Shape::output, width); }
  [[nodiscard]] std::vector<float> intermediate(std::size_t j, std::size_t r) const {
    std::vector<float> features;
    for (std::size_t d = 0; d < width; ++d) features.push_back(output[r * Shape::output + width + d * kept + j]);
    return features;
  }
};

}  // namespace

TEST_CASE("vision model") {
  constexpr std::uint32_t seed = 31;
  auto random = random_weights<Vision>(seed);
  Vision& model = *random.model;
  RandomPicture picture(seed);
  const Result result(model, picture.tiles());
  REQUIRE(result.entering.size() == 5);

  SUBCASE("intermediate states are interleaved behind the last one; profiles differ in which ones they are") {
    const Result output(model, picture.tiles(), profile::transformers_4_56::numerics);
    const Result last(model, picture.tiles(), profile::transformers_4_55::numerics);
    for (std::size_t r = 0; r < Shape::image_tokens; ++r) {
      for (std::size_t j = 0; j < kept; ++j) {
        const auto layer = static_cast<std::size_t>(TinyVision::intermediate[j]);
        CHECK(same(result.intermediate(j, r), result.row(layer, r)));
        CHECK(same(output.intermediate(j, r), result.row(layer + 1, r)));
      }
      CHECK(last.intermediate(0, r) == last.intermediate(1, r));
      CHECK(same(last.final(r), result.final(r)));
    }
  }
  SUBCASE("the number of threads does not matter") { CHECK(Result(model, picture.tiles(), {}, 3).output == result.output); }

  std::vector<float> closed(1, 0);
  SUBCASE("global layers with closed gates change nothing") {
    for (auto& layer : model.global_transformer.layers) layer.gate_attn.weights.data = layer.gate_ffn.weights.data = closed.data();
    const Result same_states(model, picture.tiles());
    for (std::size_t r = 0; r < Shape::image_tokens; ++r) CHECK(same(same_states.final(r), same_states.row(3, r)));
  }
  SUBCASE("with closed gates, the place of a tile does not matter") {
    for (auto* embedding : {&model.pre_tile_positional_embedding, &model.post_tile_positional_embedding}) {
      embedding->gate.weights.data = closed.data();
    }
    model.gated_positional_embedding.gate.weights.data = closed.data();
    const Result wide(model, picture.tiles());
    picture.tiles().aspect_ratio_id = 3;
    CHECK(Result(model, picture.tiles()).output == wide.output);
    std::swap_ranges(picture.pixels().begin(), picture.pixels().begin() + static_cast<std::ptrdiff_t>(picture.pixels().size() / 2),
                     picture.pixels().begin() + static_cast<std::ptrdiff_t>(picture.pixels().size() / 2));
    const Result swapped(model, picture.tiles());
    for (std::size_t r = 0; r < Shape::positions; ++r) {
      CHECK(difference(swapped.final(r), wide.final(Shape::positions + r)) < 10 * reordered);
      CHECK(difference(swapped.final(Shape::positions + r), wide.final(r)) < 10 * reordered);
    }
  }
  SUBCASE("with open gates it does") {
    picture.tiles().aspect_ratio_id = 3;
    CHECK(difference(Result(model, picture.tiles()).output, result.output) > 1e-3);
  }
  SUBCASE("an open position gate leaves only the table of tiles") {
    closed[0] = 20;
    model.gated_positional_embedding.gate.weights.data = closed.data();
    const Result tiles_only(model, picture.tiles());
    auto other = random_weights<Vision>(seed + 1);
    model.gated_positional_embedding.embedding = other.model->gated_positional_embedding.embedding;
    CHECK(Result(model, picture.tiles()).output == tiles_only.output);
  }
  SUBCASE("a picture's positions attend to its empty tiles: as the weights were trained") {
    RandomPicture small(seed, 1);
    const Result blank(model, small.tiles());
    fill_random(small.pixels().last(small.pixels().size() / 2), seed + 1);
    CHECK(difference(Result(model, small.tiles()).final(0), blank.final(0)) > 1e-4);
  }
  SUBCASE("an aspect ratio that is not in the table is refused") {
    picture.tiles().aspect_ratio_id = 4;
    try {
      const Result refused(model, picture.tiles());
      FAIL("no exception");
    } catch (const input_error& error) {
      CHECK(std::string(error.what()) == "aspect_ratio_ids: expected 0 to 3, found 4");
    }
  }
}
