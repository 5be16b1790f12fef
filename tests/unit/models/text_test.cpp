// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <vector>

#include <unit/core/executors.hpp>

#include "sequence.hpp"

using namespace mllama;
using namespace mllama_test;

namespace {

constexpr std::uint32_t seed = 41;
constexpr std::int32_t image = TinyText::image_token;

std::span<const float> rows(const States& states, std::size_t first, std::size_t count) {
  return states.view().slice(first, count).flat();
}

}  // namespace

TEST_CASE("language model") {
  CAPTURE(seed);
  auto random = random_weights<Tiny>(seed);
  Tiny& model = *random.model;
  RandomPicture first(seed), second(seed + 1, 1);
  Context ctx(1);
  const Picture a = model.encode(first.tiles(), {}, ctx), b = model.encode(second.tiles(), {}, ctx);
  const std::vector<std::int32_t> ids{5, 9, image, 2, 512, 7};
  const Sequence seeing(ids, {&a}, 2), blind(ids);
  const States whole = forward(model, seeing);

  SUBCASE("a packed batch is its sequences") {
    const Sequence both({image, image, 3, 4}, {&a, &b}, 0), text({1, 2, 3});
    for (const Numerics& numerics : all_profiles) {
      Sequence x = seeing, y = text, z = both;
      const States packed = forward(model, {{&x, 6}, {&y, 3}, {&z, 4}}, numerics);
      CHECK(difference(rows(packed, 0, 6), forward(model, seeing, numerics).flat()) < reordered);
      CHECK(difference(rows(packed, 6, 3), forward(model, text, numerics).flat()) < reordered);
      CHECK(difference(rows(packed, 9, 4), forward(model, both, numerics).flat()) < reordered);
    }
  }
  SUBCASE("row by row with a cache is all at once, also in a batch") {
    for (const Numerics& numerics : all_profiles) {
      const States all = forward(model, seeing, numerics), other = forward(model, blind, numerics);
      Sequence x = seeing, y = blind;
      const States start = forward(model, {{&x, 3}, {&y, 3}}, numerics);
      CHECK(difference(rows(start, 0, 3), rows(all, 0, 3)) < reordered);
      CHECK(difference(rows(start, 3, 3), rows(other, 0, 3)) < reordered);
      for (std::size_t r = 3; r < ids.size(); ++r) {
        const States step = forward(model, {{&x, 1}, {&y, 1}}, numerics);
        CHECK(difference(step[0], all[r]) < reordered);
        CHECK(difference(step[1], other[r]) < reordered);
      }
    }
  }
  SUBCASE("the number of threads does not matter") {
    CHECK(same(forward(model, seeing, {}, 3).flat(), whole.flat()));
    CHECK(
        same(forward(model, seeing, {}, 17).flat(), whole.flat()));  // more than cores: threads wait for those that wait for a core
  }
  SUBCASE("nor whose they are, and in which order they work") {
    const auto check = [&](Executor& executor) {
      Context own(executor);
      Sequence sequence = seeing;
      CHECK(same(forward(model, {{&sequence, sequence.left()}}, {}, own).flat(), whole.flat()));
    };
    for (const unsigned threads : {1U, 2U, 5U}) {
      OneByOne backwards(threads);
      check(backwards);
      NewThreads at_once(threads);
      check(at_once);
    }
  }
  SUBCASE("rows before the picture do not know it, as the weights were trained") {
    CHECK(same(rows(whole, 0, 2), rows(forward(model, blind), 0, 2)));
    CHECK(difference(rows(whole, 2, 4), rows(forward(model, blind), 2, 4)) > 1e-3);
    // In transformers' releases they attend to all of it.
    const States released = forward(model, seeing, profile::transformers_4_45::numerics);
    CHECK(difference(rows(released, 0, 2), rows(forward(model, blind), 0, 2)) > 1e-3);
  }
  SUBCASE("text alone skips the layers that attend to pictures") {
    const States text = forward(model, blind);
    auto other = random_weights<Tiny>(seed + 1);
    model.language_model.model.layers.cross = other.model->language_model.model.layers.cross;
    CHECK(same(forward(model, blind).flat(), text.flat()));
    CHECK(difference(forward(model, seeing).flat(), whole.flat()) > 1e-3);
  }
  SUBCASE("with closed gates a picture changes nothing") {
    const float closed = 0;
    for (auto& layer : model.language_model.model.layers.cross) {
      layer.cross_attn_attn_gate.weights.data = layer.cross_attn_mlp_gate.weights.data = &closed;
    }
    for (const Numerics& numerics : all_profiles)
      CHECK(same(forward(model, seeing, numerics).flat(), forward(model, blind).flat()));
  }
  SUBCASE("the order of pictures that are seen together does not matter") {
    const std::vector<std::int32_t> two{image, image, 3, 4};
    CHECK(difference(forward(model, Sequence(two, {&a, &b})).flat(), forward(model, Sequence(two, {&b, &a})).flat()) < reordered);
    CHECK(difference(forward(model, Sequence(two, {&a, &b})).flat(), forward(model, Sequence(two, {&a})).flat()) > 1e-3);
  }
  SUBCASE("logits are those of the normalised states") {
    const auto logits = model.language_model.logits(whole, ctx);
    CHECK(logits.rows() == ids.size());
    CHECK(same(logits.flat(), model.language_model.lm_head(model.language_model.model.norm(whole, ctx), ctx).flat()));
  }
}
