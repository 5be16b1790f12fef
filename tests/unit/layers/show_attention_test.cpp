// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <cstddef>
#include <string_view>
#include <vector>

#include <mllama/layers/show_attention.hpp>
#include <mllama/layers/visibility.hpp>

#include "random_rows.hpp"

using namespace mllama;
using namespace mllama_test;

namespace {

/// Keeps the rows of all panels.
struct Panels {
  bool* open;
  std::vector<std::size_t>* first;
  std::vector<float>* head_1;
  std::size_t* most;
  static constexpr bool wants(std::string_view name) { return name == "some_attention"; }
  [[nodiscard]] bool wants_now(std::string_view) const { return *open; }
  void operator()(const Tap& tap, View<const float, Dim<2>, Tokens, ImageTokens> view) {
    first->push_back(tap.first);
    *most = std::max(*most, view.size());
    const auto rows = view.flat().subspan(view.size() / 2);
    head_1->insert(head_1->end(), rows.begin(), rows.end());
  }
};

}  // namespace

TEST_CASE("attention is shown some rows at a time, in bounded memory, and only when it is wanted") {
  bool open = false;
  std::vector<std::size_t> first;
  std::vector<float> head_1;
  std::size_t most = 0;
  Context<cpu<>, Panels> ctx(2, Panels{&open, &first, &head_1, &most});
  constexpr std::size_t rows = 70, keys = 20'000;  // more than two panels
  const auto q = random_rows<Tokens, 2>(rows, 1);
  const auto k = random_rows<ImageTokens, 1>(keys, 2);
  const kernels::KeyBlock block{k.data(), k.data(), keys};
  const kernels::Heads heads{2, 1, 1};
  const VisibilityTables visible = see_the_past(1000, rows, 0, ctx);
  const auto show = [&] { show_attention<2, Tokens, ImageTokens>(ctx, "some_attention", heads, q, {&block, 1}, visible, 5); };
  show();
  CHECK(first.empty());
  open = true;
  show();
  REQUIRE(first.size() > 1);
  CHECK(first[0] == 5);
  CHECK(first[1] == 5 + most / 2 / keys);
  CHECK(most <= detail::shown_probabilities);
  std::vector<float> all(2 * rows * keys);
  kernels::attention_probabilities(ctx, heads, q, {&block, 1}, visible, all.data());
  CHECK(same(head_1, std::span(all).subspan(rows * keys)));
}
