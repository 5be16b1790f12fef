// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <cmath>
#include <cstddef>
#include <limits>
#include <vector>

#include <mllama/kernels/softmax.hpp>

#include "operands.hpp"

namespace {

using namespace mllama;
using mllama_test::Grid;
using mllama_test::Random;
using mllama_test::relative_error;
using mllama_test::Simd;

template <class B>
std::vector<float> softmax(Grid x) {
  Context<B> ctx(2);
  kernels::softmax(ctx, x.matrix());
  return x.elements();
}

}  // namespace

TEST_CASE("rows of every length, hidden entries, and sums of one") {
  Random random(1);
  for (std::size_t n = 1; n <= 140; ++n) {
    CAPTURE(n);
    Grid x(random, 3, n, n % 2);
    for (std::size_t i = 1; i < n; i += 3) x.matrix()[1][i] = -std::numeric_limits<float>::infinity();
    const std::vector<float> found = softmax<Simd>(x);
    CHECK(relative_error(found, softmax<reference>(x)) <= 1e-6);
    double sum = 0;
    for (std::size_t i = 0; i < n; ++i) sum += double{found[i]};
    CHECK(sum == doctest::Approx(1).epsilon(1e-6));
    for (std::size_t i = 1; i < n; i += 3) CHECK(found[n + i] == 0);
  }
}

TEST_CASE_TEMPLATE("large numbers do not overflow, a shift changes nothing", B, reference, Simd) {
  Grid x(1, 3);
  x.memory() = {1000, 1000, -1000};
  CHECK(softmax<B>(x) == std::vector<float>{0.5F, 0.5F, 0});
  x.memory() = {3e38F, 3e38F, 0};
  CHECK(softmax<B>(x) == std::vector<float>{0.5F, 0.5F, 0});
  x.memory() = {0, 1, 2};
  const std::vector<float> before = softmax<B>(x);
  x.memory() = {64, 65, 66};
  CHECK(softmax<B>(x) == before);
}
