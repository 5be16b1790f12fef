// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include <mllama/kernels/rope.hpp>

#include "operands.hpp"

namespace {

using namespace mllama;
using mllama_test::Grid;
using mllama_test::Random;
using mllama_test::relative_error;
using mllama_test::Simd;

const RopeScaling llama3{8, 1, 4, 8192};

std::vector<float> frequencies(std::size_t head_dim, const RopeScaling& scaling) {
  std::vector<float> out(head_dim / 2);
  kernels::rope_frequencies(500000, scaling, out);
  return out;
}

template <class B>
std::vector<float> rotated(const std::vector<std::int32_t>& positions, std::size_t head_dim, Grid x) {
  Context<B> ctx(2);
  Grid angles(positions.size(), head_dim);
  kernels::rope_angles(ctx, positions, frequencies(head_dim, llama3), angles.matrix());
  kernels::rope(ctx, angles.matrix(), x.matrix());
  return x.elements();
}

}  // namespace

TEST_CASE("frequencies of Llama 3.2 with heads of 128, bit for bit as PyTorch computes them") {
  const std::vector<float> scaled = frequencies(128, llama3), plain = frequencies(128, {});
  CHECK(scaled[0] == 1.0F);
  CHECK(scaled[1] == 0.8146172165870667F);
  CHECK(scaled[10] == 0.12868738174438477F);
  CHECK(scaled[28] == 0.0032114461064338684F);
  CHECK(scaled[29] == 0.0021665706299245358F);
  CHECK(scaled[31] == 0.0008567514596506953F);
  CHECK(scaled[34] == 0.0001785077911335975F);
  CHECK(scaled[35] == 9.556212171446532e-05F);
  CHECK(scaled[63] == 3.068925877869333e-07F);
  for (std::size_t i = 0; i < 64; ++i) {
    CAPTURE(i);
    if (i <= 28) CHECK(scaled[i] == plain[i]);
    if (i >= 29 && i <= 34) CHECK((plain[i] / 8 < scaled[i] && scaled[i] < plain[i]));
    if (i >= 35) CHECK(scaled[i] == plain[i] / 8);
  }
}

TEST_CASE("angles are products in float32, cosines first") {
  const std::vector<float> inverse = frequencies(16, llama3);
  const std::vector<std::int32_t> positions{0, 1, 7, 100000, 131071};
  Grid angles(positions.size(), 16);
  Context<Simd> ctx(2);
  kernels::rope_angles(ctx, positions, inverse, angles.matrix());
  for (std::size_t t = 0; t < positions.size(); ++t) {
    for (std::size_t i = 0; i < 8; ++i) {
      const float angle = static_cast<float>(positions[t]) * inverse[i];
      CHECK(angles.matrix()[t][i] == std::cos(angle));
      CHECK(angles.matrix()[t][8 + i] == std::sin(angle));
    }
  }
}

TEST_CASE("heads of every even size are rotated as the reference does it") {
  Random random(1);
  for (std::size_t dim = 2; dim <= 140; dim += 2) {
    CAPTURE(dim);
    const std::vector<std::int32_t> positions{0, 1, 2, 50, 4000};
    const Grid x(random, positions.size(), 3 * dim, dim % 3);
    CHECK(relative_error(rotated<Simd>(positions, dim, x), rotated<reference>(positions, dim, x)) <= 1e-6);
  }
}

TEST_CASE_TEMPLATE("position 0 is the identity, lengths stay, products depend on distance alone", B, reference, Simd) {
  Random random(2);
  const Grid x(random, 1, 48);
  CHECK(rotated<B>({0}, 48, x) == x.elements());
  const auto dot = [](const std::vector<float>& a, const std::vector<float>& b) {
    double sum = 0;
    for (std::size_t i = 0; i < a.size(); ++i) sum += double{a[i]} * double{b[i]};
    return sum;
  };
  const Grid y(random, 1, 48);
  const std::vector<float> far = rotated<B>({900}, 48, x);
  CHECK(dot(far, far) == doctest::Approx(dot(x.elements(), x.elements())).epsilon(1e-5));
  CHECK(dot(rotated<B>({25}, 48, x), rotated<B>({14}, 48, y)) ==
        doctest::Approx(dot(rotated<B>({131}, 48, x), rotated<B>({120}, 48, y))).epsilon(1e-3));
}
