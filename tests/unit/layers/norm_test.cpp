// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <mllama/layers/norm.hpp>
#include <mllama/models/mllama/random.hpp>

#include "random_rows.hpp"

using namespace mllama;
using namespace mllama_test;

namespace {

constexpr int width = 21;
constexpr std::uint32_t seed = 3;

auto transformed(const Tensor<float, Tokens, Dim<width>>& x, float scale, float shift) {
  auto y = copy(x);
  for (float& value : y.flat()) value = value * scale + shift;
  return y;
}

}  // namespace

TEST_CASE("RMSNorm: the length of a row does not matter, and its weight is the scale of the result") {
  const auto random = random_weights<RMSNorm<width>>(seed);
  RMSNorm<width> norm = *random.model;
  norm.eps = 1e-12;
  Context ctx(1);
  const auto x = random_rows<Tokens, width>(4, seed);
  const auto y = norm(x, ctx);
  CHECK(difference(norm(transformed(x, 1000, 0), ctx).flat(), y.flat()) < reordered);
  for (std::size_t r = 0; r < x.rows(); ++r) {
    double square = 0;
    for (std::size_t i = 0; i < width; ++i) square += std::pow(double{y[r][i]} / double{norm.weight.data()[i]}, 2);
    CHECK(square / width == doctest::Approx(1));
  }
}

TEST_CASE("RMSNorm: eps is added to the mean square") {
  const std::vector<float> ones(width, 1);
  RMSNorm<width> norm{.eps = 3};
  norm.weight.weights.data = ones.data();
  Context ctx(1);
  Tensor<float, Tokens, Dim<width>> x({1});
  x.fill(1);
  CHECK(norm(x, ctx)[0][0] == 0.5F);  // 1 / √(1 + 3)
}

TEST_CASE("RMSNorm: the heads of a row are rows of their own") {
  constexpr int head = 7;
  const auto random = random_weights<RMSNorm<head>>(seed);
  const auto x = random_rows<Tokens, 3 * head>(2, seed);
  Context ctx(1);
  auto heads = copy(x);
  random.model->each_head(heads, ctx);
  const View<const float, Tokens, Dim<head>> split(x.data(), {6});
  CHECK(same(heads.flat(), (*random.model)(split, ctx).flat()));
}

TEST_CASE("LayerNorm: mean and variance of a row do not matter") {
  const auto random = random_weights<LayerNorm<width>>(seed);
  LayerNorm<width> norm = *random.model;
  norm.eps = 1e-12;
  Context ctx(1);
  const auto x = random_rows<Tokens, width>(4, seed);
  const auto y = norm(x, ctx);
  CHECK(difference(norm(transformed(x, 8, 3), ctx).flat(), y.flat()) < reordered);
  for (std::size_t r = 0; r < x.rows(); ++r) {
    double sum = 0, square = 0;
    for (std::size_t i = 0; i < width; ++i) {
      const double value = (double{y[r][i]} - double{norm.bias.data()[i]}) / double{norm.weight.data()[i]};
      sum += value;
      square += value * value;
    }
    CHECK(sum / width == doctest::Approx(0).epsilon(1e-6));
    CHECK(square / width == doctest::Approx(1));
  }
  SUBCASE("in place") {
    auto z = copy(x);
    norm.in_place(z, ctx);
    CHECK(same(z.flat(), y.flat()));
  }
}

TEST_CASE("norms print as PyTorch's") {
  CHECK(RMSNorm<4>::repr(RMSNorm<4>{}) == "RMSNorm((4,), eps=1e-05)");
  CHECK(LayerNorm<4>::repr(LayerNorm<4>{.eps = 1e-6}) == "LayerNorm((4,), eps=1e-06, elementwise_affine=True)");
}
