// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <cmath>
#include <cstddef>
#include <vector>

#include <mllama/kernels/norm.hpp>

#include "operands.hpp"

namespace {

using namespace mllama;
using mllama_test::Grid;
using mllama_test::Random;
using mllama_test::relative_error;
using mllama_test::same_bits;
using mllama_test::Simd;

constexpr double norm_tolerance = 1e-6;  // float32 sums in at least sixteen lanes

template <class B>
std::vector<float> rms(const Grid& x, const std::vector<float>& weight, float eps, unsigned threads = 2) {
  Grid y(x.matrix().rows, x.matrix().width);
  Context<B> ctx(threads);
  kernels::rms_norm(ctx, x.matrix(), weight.data(), eps, y.matrix());
  return y.elements();
}

template <class B>
std::vector<float> layer(const Grid& x, const std::vector<float>& weight, const std::vector<float>& bias, float eps) {
  Grid y(x.matrix().rows, x.matrix().width);
  Context<B> ctx(2);
  kernels::layer_norm(ctx, x.matrix(), weight.data(), bias.data(), eps, y.matrix());
  return y.elements();
}

}  // namespace

TEST_CASE("rows of every length are normalised as the reference does it") {
  Random random(1);
  for (std::size_t n = 1; n <= 150; ++n) {
    CAPTURE(n);
    const Grid x(random, 3, n, n % 2);
    const std::vector<float> weight = random.normals(n), bias = random.normals(n);
    CHECK(relative_error(rms<Simd>(x, weight, 1e-5F), rms<reference>(x, weight, 1e-5F)) <= norm_tolerance);
    CHECK(relative_error(layer<Simd>(x, weight, bias, 1e-5F), layer<reference>(x, weight, bias, 1e-5F)) <= norm_tolerance);
  }
  const Grid x(random, 2, 4096);
  const std::vector<float> weight = random.normals(4096), bias = random.normals(4096);
  CHECK(relative_error(rms<Simd>(x, weight, 1e-5F), rms<reference>(x, weight, 1e-5F)) <= norm_tolerance);
  CHECK(relative_error(layer<Simd>(x, weight, bias, 1e-5F), layer<reference>(x, weight, bias, 1e-5F)) <= norm_tolerance);
}

TEST_CASE("in place, with any number of threads") {
  Random random(2);
  Grid x(random, 7, 50);
  const std::vector<float> weight = random.normals(50), expected = rms<Simd>(x, weight, 1e-6F, 1);
  CHECK(same_bits(rms<Simd>(x, weight, 1e-6F, 3), expected));
  Context<Simd> ctx(2);
  kernels::rms_norm(ctx, x.matrix(), weight.data(), 1e-6F, x.matrix());
  CHECK(same_bits(x.elements(), expected));
}

TEST_CASE_TEMPLATE("what normalisation does not see, and what it makes", B, reference, Simd) {
  Random random(3);
  const std::vector<float> ones(40, 1.0F), zeros(40, 0.0F);
  Grid x(random, 4, 40);
  const std::vector<float> scaled_before = rms<B>(x, ones, 0), shifted_before = layer<B>(x, ones, zeros, 0);
  double squares = 0, sum = 0;
  for (std::size_t i = 0; i < 40; ++i) {
    squares += double{scaled_before[i]} * double{scaled_before[i]};
    sum += double{shifted_before[i]};
  }
  CHECK(squares / 40 == doctest::Approx(1).epsilon(1e-6));
  CHECK(std::abs(sum) < 1e-5);
  for (float& element : x.memory()) element *= 8;
  CHECK(relative_error(rms<B>(x, ones, 0), scaled_before) <= norm_tolerance);
  for (float& element : x.memory()) element += 3;
  CHECK(relative_error(layer<B>(x, ones, zeros, 0), shifted_before) <= 3e-6);  // the shift costs digits of x
}

TEST_CASE_TEMPLATE("rows of zeros and of one number", B, reference, Simd) {
  const Grid zeros(1, 21);
  const Grid fives(1, 21, 0, 5);
  const std::vector<float> weight(21, 2.0F), bias(21, 0.5F);
  for (const float element : rms<B>(zeros, weight, 1e-5F)) CHECK(element == 0);
  for (const float element : layer<B>(fives, weight, bias, 1e-5F)) CHECK(element == doctest::Approx(0.5).epsilon(1e-3));
}
