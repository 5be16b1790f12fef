// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <string>

#include "sequence.hpp"

using namespace mllama;
using namespace mllama_test;

namespace {

constexpr std::uint32_t seed = 43;

// What somebody would write to try something: another width of the perceptrons, other layers that see the picture, other formats.
struct WideText : TinyText {
  using weights = NF4;
  using cross_weights = BF16;
  static constexpr int inner = 56, layers = 4;
  static constexpr std::array cross{0, 2, 3};
};
struct DeepVision : TinyVision {
  using weights = BF16;
  static constexpr int layers = 4;
  static constexpr std::array intermediate{1, 2, 4};
};
struct Variant : Mllama<DeepVision, WideText, profile::transformers_4_56> {};

}  // namespace

TEST_CASE("a variant of one's own runs") {
  const auto random = random_weights<Variant>(seed);
  const Variant& model = *random.model;
  Context ctx(1);
  RandomPicture<DeepVision> picture(seed);
  const auto encoded = model.encode(picture.tiles(), Variant::numerics, ctx);
  CHECK(encoded.layers.size() == 3);
  KeyValueCache<WideText> cache;
  const std::array<std::int32_t, 3> ids{WideText::image_token, 3, 4}, positions{0, 1, 2};
  const std::array<const EncodedImage<WideText>*, 1> pictures{&encoded};
  const std::array<std::uint32_t, 3> set_of_row{};
  const std::array<std::uint32_t, 2> sets{0, 1};
  const std::array<kernels::KeyRange, 1> ranges{{{0, 0, VisionShape<DeepVision>::image_tokens}}};
  const std::array<std::uint8_t, 3> sees{1, 1, 1};
  const TextSequence<WideText> sequence{3, &cache, pictures, {set_of_row, sets, ranges}, sees};
  const auto states = model.forward({ids, positions, {&sequence, 1}}, Variant::numerics, ctx);
  const auto logits = model.language_model.logits(states, ctx);
  CHECK(logits.size() == 3 * WideText::vocab);
  CHECK(std::ranges::all_of(logits.flat(), [](float value) { return std::isfinite(value); }));
  CHECK(cache.length() == 3);
}

TEST_CASE("a picture") {
  const auto random = random_weights<Tiny>(seed);
  const Tiny& model = *random.model;
  Context ctx(1);

  SUBCASE("has keys and values of each layer that attends to it") {
    RandomPicture picture(seed, 1);
    const Picture encoded = model.encode(picture.tiles(), {}, ctx);
    CHECK(encoded.tiles == 1);
    CHECK(encoded.tile_positions == 5);
    for (std::size_t layer = 0; layer < encoded.layers.size(); ++layer) CHECK(encoded.block(layer).count == 10);
    CHECK_FALSE(same(keys_of(encoded, 0), keys_of(encoded, 1)));
  }
  SUBCASE("is other keys and values in other profiles") {
    RandomPicture picture(seed);
    const Picture meta = model.encode(picture.tiles(), profile::meta::numerics, ctx),
                  released = model.encode(picture.tiles(), profile::transformers_4_56::numerics, ctx);
    CHECK(difference(keys_of(meta, 0), keys_of(released, 0)) > 1e-3);
  }
}

TEST_CASE("an id that is not in the embedding table is refused, and the cache is as before") {
  const auto random = random_weights<Tiny>(seed);
  for (const std::int32_t id : {-1, 521}) {
    Sequence sequence({4, id});
    try {
      static_cast<void>(forward(*random.model, {{&sequence, 2}}));
      FAIL("no exception");
    } catch (const input_error& error) {
      CHECK(std::string(error.what()) == concat("input_ids[1]: expected an id from 0 to 520, found ", id));
    }
    CHECK(sequence.left() == 2);
  }
  CHECK_NOTHROW(static_cast<void>(forward(*random.model, Sequence({4, 520}))));
}
