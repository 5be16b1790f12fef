// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <vector>

#include <mllama/observe/recorder.hpp>
#include <unit/layers/random_rows.hpp>

using namespace mllama;
using namespace mllama_test;

using Shape = std::vector<std::size_t>;
using Values = std::vector<float>;

TEST_CASE("a recorder keeps what passes the taps that it was told") {
  Context<cpu<>, Recorder> ctx(1, Recorder{{"states", "output", "norm.2"}});
  const auto a = random_rows<Tokens, 3>(2, 1), b = random_rows<Tokens, 3>(4, 2);
  ctx.tap({"states", 1}, a.view());
  ctx.tap({"other"}, a.view());
  ctx.tap({"stat"}, a.view());
  ctx.tap({"output"}, a.view());
  ctx.tap({"norm", 1}, a.view());
  ctx.tap({"norm", 2}, a.view());
  ctx.tap({"states", 1}, b.view());
  const auto& records = ctx.observer().records();
  REQUIRE(records.size() == 3);
  CHECK(records[0].name == "states.1");
  CHECK(records[0].shape == Shape{6, 3});
  CHECK(same(std::span(records[0].values).first(6), a.flat()));
  CHECK(same(std::span(records[0].values).subspan(6), b.flat()));
  CHECK(records[1].name == "output");
  CHECK(records[2].name == "norm.2");
  CHECK_FALSE(ctx.wants_now("cross_attention"));
  CHECK(ctx.wants_now("norm"));
  ctx.observer().clear();
  CHECK(ctx.observer().records().empty());
}

TEST_CASE("rows are joined along the axis that counts them, whatever the others become") {
  Context<cpu<>, Recorder> ctx(1, Recorder{{"attention", "gate"}});
  const Values first{1, 2, 3, 4}, second{5, 6, 7, 8, 9, 10};
  ctx.tap({"attention"}, View<const float, Dim<2>, Tokens, Tokens>(first.data(), {1, 2}));
  ctx.tap({"attention"}, View<const float, Dim<2>, Tokens, Tokens>(second.data(), {1, 3}));
  ctx.tap({"attention"}, View<const float, Dim<2>, Tokens, Tokens>(first.data(), {2, 1}));
  for (int pass = 0; pass < 2; ++pass) ctx.tap({"gate"}, View<const float, Dim<1>>(first.data()));
  const auto records = ctx.observer().records();
  REQUIRE(records.size() == 2);
  CHECK(records[0].shape == Shape{2, 4, 3});
  CHECK(records[0].values == Values{1, 2, 0, 5, 6, 7,  1, 0, 0, 2, 0, 0,  //
                                    3, 4, 0, 8, 9, 10, 3, 0, 0, 4, 0, 0});
  CHECK(records[1].shape == Shape{2});
  CHECK(records[1].values == Values{1, 1});
}
