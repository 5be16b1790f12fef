// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <numeric>
#include <vector>

#include <mllama/observe/attention_maps.hpp>
#include <unit/models/sequence.hpp>

using namespace mllama;
using namespace mllama_test;

using Values = std::vector<float>;

TEST_CASE("image tokens lie where their patches do: tiles side by side, without class tokens") {
  Values tokens(4 * 5);
  std::iota(tokens.begin(), tokens.end(), 0.0F);  // of a tile: class token 0, patches 1 2 / 3 4; 5, 6 7 / 8 9; …
  CHECK(patch_map(tokens, {1, 1}, 2).values == Values{1, 2, 3, 4});
  const PatchMap wide = patch_map(tokens, {1, 2}, 2);
  CHECK(wide.rows == 2);
  CHECK(wide.columns == 4);
  CHECK(wide.values == Values{1, 2, 6, 7, 3, 4, 8, 9});
  CHECK(wide.at(1, 2) == 8);
  CHECK(patch_map(tokens, {2, 1}, 2).values == Values{1, 2, 3, 4, 6, 7, 8, 9});
  CHECK(patch_map(tokens, {2, 2}, 2).values == Values{1, 2, 6, 7, 3, 4, 8, 9, 11, 12, 16, 17, 13, 14, 18, 19});
  CHECK(patch_map(tokens, {1, 2}, 2, 0).values == Values{0, 1, 4, 5, 2, 3, 6, 7});
  CHECK_THROWS_AS(static_cast<void>(patch_map(tokens, {3, 2}, 2)), input_error);

  PatchMap sum = wide;
  sum += wide;
  CHECK(sum.at(1, 2) == 16);
  CHECK_THROWS_AS(sum += patch_map(tokens, {2, 1}, 2), input_error);
}

TEST_CASE("how much a map points") {
  CHECK(PatchMap{2, 2, {1, 1, 1, 1}}.sharpness() == doctest::Approx(0));
  CHECK(PatchMap{2, 2, {0, 3, 0, 0}}.sharpness() == doctest::Approx(1));
  CHECK(PatchMap{2, 2, {1, 0, 1, 0}}.sharpness() == doctest::Approx(0.5));
  CHECK(PatchMap{2, 2, {0, 0, 0, 0}}.sharpness() == 0);
  CHECK(PatchMap{}.sharpness() == 0);
}

TEST_CASE("of each pass, the last row's attention is kept") {
  const auto random = random_weights<Tiny>(9);
  const Tiny& model = *random.model;
  Context<> plain(1);
  const mllama_test::Picture picture = model.encode(RandomPicture<>(9).tiles(), Tiny::numerics, plain);
  const auto run = [&](auto&& ctx, std::initializer_list<std::size_t> passes) {
    Sequence sequence({TinyText::image_token, 4, 5, 6}, {&picture});
    for (const std::size_t rows : passes) {
      std::vector<std::int32_t> ids, positions;
      const TextSequence<TinyText> next = sequence.next(rows, ids, positions);
      static_cast<void>(model.forward({ids, positions, {&next, 1}}, Tiny::numerics, ctx));
    }
    return ctx.observer().passes();
  };
  using Ctx = Context<cpu<>, AttentionMaps>;
  const auto all = run(Ctx(1), {3, 1}), one = run(Ctx(1), {1, 1, 1, 1}), mean = run(Ctx(1, AttentionMaps(false)), {3, 1});
  REQUIRE(all.size() == 2);
  REQUIRE(one.size() == 4);
  constexpr std::size_t tokens = VisionShape<TinyVision>::image_tokens;
  for (std::size_t pass = 0; pass < 2; ++pass) {
    REQUIRE(all[pass].size() == 2);
    CHECK(all[pass][0].index == 1);
    CHECK(all[pass][1].index == 3);
    for (std::size_t layer = 0; layer < 2; ++layer) {
      const AttentionMaps::OfLayer& of = all[pass][layer];
      CHECK(of.heads == TinyText::heads);
      CHECK(of.tokens == tokens);
      CHECK(difference(of.probabilities, one[pass + 2][layer].probabilities) < reordered);
      CHECK(std::accumulate(of.head(3).begin(), of.head(3).end(), 0.0) == doctest::Approx(1));
      CHECK(mean[pass][layer].heads == 1);
      CHECK(same(mean[pass][layer].head(0), of.mean()));
      CHECK(of.mean()[5] == doctest::Approx((of.head(0)[5] + of.head(1)[5] + of.head(2)[5] + of.head(3)[5]) / 4));
    }
  }
  CHECK(run(Ctx(1, AttentionMaps(true, false)), {3, 1}).empty());
}
