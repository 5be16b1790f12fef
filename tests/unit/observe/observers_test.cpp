// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <string>
#include <string_view>

#include <mllama/observe/observers.hpp>
#include <unit/layers/random_rows.hpp>

using namespace mllama;
using namespace mllama_test;

namespace {
struct Plain {
  std::string seen;
  void operator()(const Tap& tap, const auto&) { seen += tap.name; }
};
struct Picky {
  std::string seen;
  bool on = true;
  static constexpr bool wants(std::string_view name) { return name == "b" || name == "cross_attention"; }
  [[nodiscard]] bool wants_now(std::string_view) const { return on; }
  void operator()(const Tap& tap, View<const float, Tokens, Dim<3>>, auto& ctx) { seen += concat(tap.name, ctx.threads().size()); }
};
}  // namespace

TEST_CASE("several observers see what each of them wants") {
  using Both = Observers<Plain, Picky>;
  using Ctx = Context<cpu<>, Both>;
  static_assert(Ctx::wants("a") && Ctx::wants("cross_attention") && !Ctx::wants("self_attention"));
  Ctx ctx(1);
  const auto text = random_rows<Tokens, 3>(1, 1);
  const auto image = random_rows<ImageTokens, 3>(1, 1);
  ctx.tap({"a"}, text.view());
  ctx.tap({"b"}, text.view());
  ctx.tap({"b"}, image.view());
  ctx.tap({"cross_attention"}, text.view());
  ctx.tap({"self_attention"}, text.view());
  CHECK(ctx.observer().get<Plain>().seen == "abb");
  CHECK(ctx.observer().get<Picky>().seen == "b1cross_attention1");
  CHECK(ctx.wants_now("cross_attention"));
  ctx.observer().get<Picky>().on = false;
  CHECK_FALSE(ctx.wants_now("cross_attention"));
  CHECK(ctx.wants_now("b"));
  ctx.tap({"b"}, text.view());
  CHECK(ctx.observer().get<Plain>().seen == "abbb");
  CHECK(ctx.observer().get<Picky>().seen == "b1cross_attention1");
}
