// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include <mllama/kernels/activation.hpp>

#include "operands.hpp"

namespace {

using namespace mllama;
using mllama_test::Grid;
using mllama_test::Random;
using mllama_test::relative_error;
using mllama_test::same_bits;
using mllama_test::Simd;

/// A user's own, of which no vectors exist.
struct Cube {
  [[maybe_unused]] static constexpr std::string_view key = "cube", class_name = "Cube";
  static double value(double x) { return x * x * x; }
};

template <class B, class A>
std::vector<float> activated(Grid x, unsigned threads = 2) {
  Context<B> ctx(threads);
  kernels::activate<A>(ctx, x.matrix());
  return x.elements();
}

}  // namespace

TYPE_TO_STRING(GELU);
TYPE_TO_STRING(TanhGELU);
TYPE_TO_STRING(QuickGELU);
TYPE_TO_STRING(ReLU);
TYPE_TO_STRING(SiLU);

TEST_CASE_TEMPLATE("the whole range is right to 3 ulp or 1e-7", A, GELU, TanhGELU, QuickGELU, ReLU, SiLU) {
  std::vector<float> numbers;
  for (std::uint64_t bits = 0; bits < 0x100000000U; bits += 49999) {
    const float number = std::bit_cast<float>(static_cast<std::uint32_t>(bits));
    if (std::abs(number) < 1e30F) numbers.push_back(number);
  }
  for (float x = -12; x < 12; x += 0.0009765625F) numbers.push_back(x);
  Grid x(1, numbers.size());
  x.memory() = numbers;
  const std::vector<float> found = activated<Simd, A>(x);
  double worst = 0;
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    const double expected = A::value(double{numbers[i]}), error = std::abs(double{found[i]} - expected);
    if (error > 1e-7 || std::isnan(found[i])) worst = std::max(worst, error / std::ldexp(1.0, std::ilogb(expected) - 23));
    REQUIRE_FALSE(std::isnan(found[i]));
  }
  CHECK(worst <= 3);
}

TEST_CASE_TEMPLATE("every length, alone and times another, with any number of threads", A, GELU, TanhGELU, QuickGELU, ReLU, SiLU,
                   Cube) {
  Random random(1);
  for (std::size_t n = 0; n <= 70; ++n) {
    const Grid x(random, 1, n);
    CHECK(relative_error(activated<Simd, A>(x), activated<reference, A>(x)) <= 1e-6);
    const std::vector<float> up = random.normals(n);
    Grid gate = x;
    Context<Simd> ctx(2);
    kernels::activate_and_multiply<A>(ctx, gate.matrix(), {up.data(), 1, n, n});
    std::vector<float> expected = activated<Simd, A>(x);
    for (std::size_t i = 0; i < n; ++i) expected[i] *= up[i];
    CHECK(relative_error(gate.elements(), expected) <= 2e-7);
  }
  const Grid x(random, 3, 5003);
  CHECK(same_bits(activated<Simd, A>(x, 1), activated<Simd, A>(x, 3)));
}

TEST_CASE_TEMPLATE("zeros, infinities and large numbers", A, GELU, TanhGELU, QuickGELU, SiLU) {
  Grid x(1, 5);
  x.memory() = {0, std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN(), 1e30F, -1e30F};
  const std::vector<float> found = activated<Simd, A>(x);
  CHECK(found[0] == 0);
  CHECK(std::isinf(found[1]));
  CHECK(std::isnan(found[2]));
  CHECK(found[3] == 1e30F);
  CHECK(found[4] == 0);
}
