// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <mllama/observe/recorder.hpp>
#include <unit/layers/random_rows.hpp>

using namespace mllama;
using namespace mllama_test;

TEST_CASE("a recorder keeps what passes the taps that it was told") {
  Context<cpu<>, Recorder> ctx(1, Recorder{{"states", "output"}});
  const auto a = random_rows<Tokens, 3>(2, 1), b = random_rows<Tokens, 3>(4, 2);
  ctx.tap({"states", 1}, a.view());
  ctx.tap({"other"}, a.view());
  ctx.tap({"output"}, a.view());
  ctx.tap({"states", 1}, b.view());
  const auto& records = ctx.observer().records();
  REQUIRE(records.size() == 2);
  CHECK(records[0].name == "states.1");
  CHECK(records[0].shape == std::vector<std::size_t>{6, 3});
  CHECK(same(std::span(records[0].values).first(6), a.flat()));
  CHECK(same(std::span(records[0].values).subspan(6), b.flat()));
  CHECK(records[1].name == "output");
  ctx.observer().clear();
  CHECK(ctx.observer().records().empty());
}
