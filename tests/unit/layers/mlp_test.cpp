// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <mllama/layers/mlp.hpp>
#include <mllama/models/mllama/random.hpp>

#include "random_rows.hpp"

using namespace mllama;
using namespace mllama_test;

namespace {
constexpr int width = 10, inner = 13;
constexpr std::uint32_t seed = 11;
using Gelu = MLP<F32, width, inner, GELU>;
using Gated = GatedMLP<F32, width, inner>;
}  // namespace

TYPE_TO_STRING(Gelu);
TYPE_TO_STRING(Gated);

TEST_CASE_TEMPLATE("rows of a perceptron do not know each other", M, Gelu, Gated) {
  const auto random = random_weights<M>(seed);
  Context ctx(1);
  constexpr std::size_t rows = detail::mlp_rows + 3;  // more than are taken at a time
  const auto x = random_rows<Tokens, width>(rows, seed);
  const auto before = random_rows<Tokens, width>(rows, seed + 1);
  std::vector<std::uint8_t> mask(rows, 1);
  mask[1] = mask[detail::mlp_rows + 1] = 0;
  auto all = copy(before);
  random.model->add(x, {all, 0.5F, mask}, ctx);
  for (const std::size_t r : {std::size_t{0}, std::size_t{1}, detail::mlp_rows - 1, detail::mlp_rows, detail::mlp_rows + 1}) {
    CAPTURE(r);
    Tensor<float, Tokens, Dim<width>> one({1}), stream({1});
    std::ranges::copy(x[r], one.data());
    std::ranges::copy(before[r], stream.data());
    if (mask[r] != 0) random.model->add(one, {stream, 0.5F}, ctx);
    CHECK(difference(all[r], stream.flat()) < reordered);
  }

  SUBCASE("a closed gate changes nothing") {
    auto stream = copy(before);
    random.model->add(x, {stream, 0}, ctx);
    CHECK(same(stream.flat(), before.flat()));
  }
}

TEST_CASE("the gated perceptron is down(silu(gate(x)) * up(x))") {
  const auto random = random_weights<Gated>(seed);
  const Gated& mlp = *random.model;
  Context ctx(1);
  const auto x = random_rows<Tokens, width>(3, seed);
  auto gate = mlp.gate_proj(x, ctx);
  const auto up = mlp.up_proj(x, ctx);
  for (std::size_t i = 0; i < gate.size(); ++i) {
    const double value = double{gate.flat()[i]};
    gate.flat()[i] = static_cast<float>(value / (1 + std::exp(-value)) * double{up.flat()[i]});
  }
  const auto expected = mlp.down_proj(gate, ctx);
  Tensor<float, Tokens, Dim<width>> stream({3});
  stream.fill(0);
  mlp.add(x, {stream}, ctx);
  CHECK(difference(stream.flat(), expected.flat()) < reordered);
}
