// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>

#include <mllama/layers/mixture.hpp>
#include <mllama/models/mllama/random.hpp>

#include "random_rows.hpp"

using namespace mllama;
using namespace mllama_test;

namespace {
constexpr int width = 10, inner = 13, experts = 5;
constexpr std::uint32_t seed = 17;
using Mixture = MixtureOfExperts<F32, width, inner, experts, 2>;

/// What one row of x gets: the two experts with the highest scores, by their own softmax.
std::array<double, width> expected(const Mixture& mixture, View<const float, Tokens, Dim<width>> row, Context<>& ctx) {
  const auto scores = mixture.gate(row, ctx);
  std::array<std::size_t, experts> order{0, 1, 2, 3, 4};
  std::ranges::stable_sort(order, std::greater{}, [&](std::size_t e) { return scores[0][e]; });
  const double share = 1 / (1 + std::exp(double{scores[0][order[1]]} - double{scores[0][order[0]]}));
  const auto first = mixture.experts[order[0]](row, ctx), second = mixture.experts[order[1]](row, ctx);
  std::array<double, width> sum{};
  for (std::size_t i = 0; i < width; ++i) sum[i] = share * double{first[0][i]} + (1 - share) * double{second[0][i]};
  return sum;
}
}  // namespace

TEST_CASE("a row gets its two best experts, through the gate and the mask of the stream") {
  const auto random = random_weights<Mixture>(seed);
  Context ctx(1);
  constexpr std::size_t rows = detail::mlp_rows + 3;  // more than are taken at a time
  const auto x = random_rows<Tokens, width>(rows, seed);
  const auto before = random_rows<Tokens, width>(rows, seed + 1);
  std::vector<std::uint8_t> mask(rows, 1);
  mask[1] = mask[detail::mlp_rows + 1] = 0;
  auto stream = copy(before);
  random.model->add(x, {stream, 0.5F, mask}, ctx);
  for (const std::size_t r : {std::size_t{0}, std::size_t{1}, std::size_t{2}, detail::mlp_rows - 1, detail::mlp_rows,
                              detail::mlp_rows + 1, detail::mlp_rows + 2}) {
    CAPTURE(r);
    const auto change = expected(*random.model, x.view().slice(r, 1), ctx);
    for (std::size_t i = 0; i < width; ++i) {
      const double wanted = double{before[r][i]} + (mask[r] != 0 ? change[i] / 2 : 0);
      CHECK(std::abs(double{stream[r][i]} - wanted) < 1e-5);
    }
  }

  SUBCASE("the same bits whatever the threads") {
    Context many(3);
    auto again = copy(before);
    random.model->add(x, {again, 0.5F, mask}, many);
    CHECK(same(again.flat(), stream.flat()));
  }
}

TEST_CASE("scores that are no numbers harm their own row alone") {
  const auto random = random_weights<Mixture>(seed);
  Context ctx(1);
  auto x = random_rows<Tokens, width>(3, seed);
  Tensor<float, Tokens, Dim<width>> clean({3}), harmed({3});
  clean.fill(0);
  harmed.fill(0);
  random.model->add(x, {clean}, ctx);
  x[1][0] = std::nanf("");
  random.model->add(x, {harmed}, ctx);
  CHECK(std::isnan(harmed[1][0]));
  CHECK(same(clean[0], harmed[0]));
  CHECK(same(clean[2], harmed[2]));
}
