// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <array>

#include <mllama/layers/rope.hpp>

#include "random_rows.hpp"

using namespace mllama;
using namespace mllama_test;

TEST_CASE("angles are those of each row's position") {
  const RotaryEmbedding<6> rope{.theta = 10000, .scaling = {}};
  Context ctx(1);
  const std::array<std::int32_t, 4> positions{0, 1, 7, 1};
  const auto angles = rope(positions, ctx);  // (tokens, 6): cosines, then sines
  for (std::size_t r = 0; r < positions.size(); ++r) {
    for (std::size_t i = 0; i < 3; ++i) {
      const double angle = positions[r] * std::pow(10000.0, -static_cast<double>(i) / 3);
      CHECK(angles[r][i] == doctest::Approx(std::cos(angle)));
      CHECK(angles[r][3 + i] == doctest::Approx(std::sin(angle)));
    }
  }
  CHECK(same(angles[1], angles[3]));
}

TEST_CASE("scores of rotated queries and keys depend on the distance only") {
  const RotaryEmbedding<8> rope{};
  Context ctx(1);
  const auto score = [&](std::int32_t query, std::int32_t key) {
    auto x = random_rows<Tokens, 8>(2, 9);
    const std::array positions{query, key};
    kernels::rope(ctx, rope(positions, ctx), x);
    double sum = 0;
    for (std::size_t i = 0; i < 8; ++i) sum += double{x[0][i]} * double{x[1][i]};
    return sum;
  };
  CHECK(score(0, 0) == doctest::Approx(score(900, 900)).epsilon(1e-4));
  CHECK(score(5, 2) == doctest::Approx(score(705, 702)).epsilon(1e-4));
  CHECK(score(5, 2) != doctest::Approx(score(5, 3)).epsilon(1e-4));
}
