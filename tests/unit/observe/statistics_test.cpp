// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include <mllama/observe/statistics.hpp>

using namespace mllama;

namespace {
constexpr float inf = std::numeric_limits<float>::infinity(), not_a_number = std::numeric_limits<float>::quiet_NaN();
View<const float, Tokens, Dim<2>> rows(const std::vector<float>& values) { return {values.data(), {values.size() / 2}}; }
}  // namespace

TEST_CASE("statistics of each tap, over all that passed it") {
  Context<cpu<>, Statistics> ctx(1);
  const std::vector<float> a{1, -2, 0, 5}, b{0, not_a_number, -inf, 4}, c{inf, not_a_number};
  ctx.tap({"states", 1}, rows(a));
  ctx.tap({"states", 2}, rows(c));
  ctx.tap({"states", 1}, rows(b));
  ctx.tap({"self_attention"}, rows(a));
  REQUIRE(ctx.observer().taps().size() == 2);
  const Statistics::OfTap& one = ctx.observer().taps()[0];
  CHECK(one.name == "states.1");
  CHECK(one.count == 8);
  CHECK(one.finite() == 6);
  CHECK(one.zeros == 2);
  CHECK(one.non_finite == 2);
  CHECK(one.least == -2);
  CHECK(one.most == 5);
  CHECK(one.mean() == doctest::Approx(8.0 / 6));
  CHECK(one.root_mean_square() == doctest::Approx(std::sqrt(46.0 / 6)));
  CHECK(one.zero_share() == 0.25);
  CHECK(one.non_finite_share() == 0.25);
  const Statistics::OfTap& none = ctx.observer().taps()[1];
  CHECK(none.finite() == 0);
  CHECK(none.mean() == 0);
  CHECK(none.root_mean_square() == 0);
  CHECK(ctx.observer().table() ==
        "tap           count        min        max       mean        rms      zeros not finite\n"
        "states.1          8         -2          5      1.333      2.769       25 %       25 %\n"
        "states.2          2          -          -          -          -          0      100 %\n");
  ctx.observer().clear();
  CHECK(ctx.observer().taps().empty());
}

TEST_CASE("statistics of some taps, or of none") {
  const std::vector<float> a{1, 2};
  Context<cpu<>, Statistics> some(1, Statistics({"self_attention"})), off(1, Statistics({}, false));
  for (auto* ctx : {&some, &off}) {
    ctx->tap({"self_attention", 3}, rows(a));
    ctx->tap({"states", 3}, rows(a));
  }
  REQUIRE(some.observer().taps().size() == 1);
  CHECK(some.observer().taps()[0].name == "self_attention.3");
  CHECK(off.observer().taps().empty());
  CHECK_FALSE(off.wants_now("states"));
}
