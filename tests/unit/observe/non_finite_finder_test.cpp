// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <limits>
#include <vector>

#include <mllama/observe/non_finite_finder.hpp>
#include <unit/models/sequence.hpp>

using namespace mllama;
using namespace mllama_test;

namespace {
constexpr float inf = std::numeric_limits<float>::infinity(), not_a_number = std::numeric_limits<float>::quiet_NaN();
}

TEST_CASE("the first that is not finite, and where") {
  Context<cpu<>, NonFiniteFinder> ctx(1);
  std::vector<float> values(12, 1);
  const View<const float, Dim<2>, Tokens, Dim<3>> view(values.data(), {2});
  ctx.tap({"fine", 1}, view);
  CHECK_FALSE(ctx.observer().first());
  values[7] = -inf;  // of (2, 2, 3): [1, 0, 1]
  values[11] = not_a_number;
  ctx.tap({.name = "states", .index = 4, .first = 10}, view);
  values[0] = not_a_number;
  ctx.tap({"later", 5}, view);
  REQUIRE(ctx.observer().first());
  CHECK(ctx.observer().first()->text() == "states.4: -inf at [1, 10, 1], the first of 2");
  ctx.observer().clear();
  ctx.tap({"later"}, view);
  CHECK(ctx.observer().first()->text() == "later: nan at [0, 0, 0], the first of 3");
  values.assign(12, inf);
  ctx.observer().clear();
  ctx.tap({"later"}, view);
  CHECK(ctx.observer().first()->text() == "later: inf at [0, 0, 0], the first of 12");
}

TEST_CASE("a broken weight is found in its layer") {
  const auto random = random_weights<Tiny>(5);
  auto& norm =
      random.model->language_model.model.layers.self[2].post_attention_layernorm;  // the third that is not of cross-attention
  const_cast<float*>(norm.weight.data())[6] = not_a_number;
  Context<cpu<>, NonFiniteFinder> ctx(1);
  Sequence sequence({1, 2, 3});
  std::vector<std::int32_t> ids, positions;
  const TextSequence<TinyText> next = sequence.next(3, ids, positions);
  static_cast<void>(random.model->forward({ids, positions, {&next, 1}}, Tiny::numerics, ctx));
  REQUIRE(ctx.observer().first());
  CHECK(ctx.observer().first()->text() == "post_attention_layernorm.4: nan at [0, 6], the first of 3");
}
