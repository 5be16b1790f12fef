// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <vector>

#include <mllama/io/pack.hpp>
#include <mllama/kernels/matmul.hpp>

#include "operands.hpp"

using namespace mllama;
using namespace mllama_test;

namespace {

/// A random matrix, packed and not.
template <BlockFormat F>
struct Matrices {
  std::vector<std::uint8_t> codes, packed_codes, absmax_codes;
  std::vector<float> absmax, nested_absmax, map;
  Weights<F> plain;
  Weights<Packed<F>> packed;

  Matrices(Random& random, std::size_t rows, std::size_t columns, std::size_t block, bool nested) {
    const std::size_t blocks = rows * columns / block;
    for (std::size_t i = 0; i < rows * columns / 2; ++i) codes.push_back(static_cast<std::uint8_t>(random.below(256)));
    packed_codes.resize(codes.size());
    pack_codes<Packed<F>>(codes.data(), rows, columns / 2, packed_codes.data());
    plain.codes = codes.data();
    plain.rows = rows;
    plain.columns = columns;
    plain.block = block;
    for (std::size_t b = 0; b < blocks; ++b) {
      absmax.push_back(std::abs(random.normal()));
      absmax_codes.push_back(static_cast<std::uint8_t>(random.below(256)));
      if (b % 256 == 0) nested_absmax.push_back(std::abs(random.normal()));
    }
    for (int i = 0; i < 256; ++i) map.push_back(static_cast<float>(i - 127) / 128);
    if (nested) {
      plain.absmax_codes = absmax_codes.data();
      plain.nested_absmax = nested_absmax.data();
      plain.nested_map = map.data();
      plain.nested_offset = 0.75F;
    } else {
      plain.absmax = absmax.data();
    }
    static_cast<Weights<F>&>(packed) = plain;
    packed.codes = packed_codes.data();
  }
};

template <class B, class F>
std::vector<float> product(const Grid& x, const Weights<F>& weights, unsigned threads = 2, const kernels::Epilogue& epilogue = {}) {
  Grid y(x.matrix().rows, weights.rows, 3, 0.5F);
  Context<B> ctx(threads);
  kernels::matmul(ctx, x.matrix(), weights, epilogue, y.matrix());
  return y.elements();
}

/// Sums of up to 4096 products in float32, relative to the largest result.
constexpr double product_tolerance = 2e-6;

}  // namespace

TYPE_TO_STRING(NF4);
TYPE_TO_STRING(FP4);

static_assert(PackedFormat<Packed<NF4>> && !PackedFormat<NF4> && !BlockFormat<Packed<NF4>>);

TEST_CASE_TEMPLATE("any run of packed codes decodes to what they are", F, NF4, FP4) {
  Random random(1);
  for (const bool nested : {false, true}) {
    const Matrices<F> m(random, 16, 192, 64, nested);
    std::vector<float> all(16 * 192), some(16 * 192), fast(16 * 192);
    m.plain.decode(0, all);
    for (int trial = 0; trial < 300; ++trial) {
      const std::size_t first = random.below(all.size()), count = random.below(all.size() - first + 1);
      m.packed.decode(first, {some.data(), count});
      kernels::detail::decode_run(m.packed, first, count, fast.data());
      CHECK(same_bits({some.data(), count}, {all.data() + first, count}));
      CHECK(same_bits({fast.data(), count}, {all.data() + first, count}));
    }
  }
}

TEST_CASE_TEMPLATE("the product is the reference's: all numbers of rows, groups and blocks", F, NF4, FP4) {
  Random random(2);
  for (const std::size_t block : {32U, 64U, 256U}) {
    for (const std::size_t outputs : {8U, 16U, 24U, 32U, 40U, 72U}) {
      for (const std::size_t rows : {1U, 2U, 3U, 4U, 5U, 7U, 130U}) {
        CAPTURE(block);
        CAPTURE(outputs);
        CAPTURE(rows);
        const Matrices<F> m(random, outputs, 2 * block, block, outputs % 16 == 8);
        const Grid x(random, rows, 2 * block, rows % 3);
        CHECK(relative_error(product<Simd>(x, m.packed), product<reference>(x, m.plain)) <= product_tolerance);
        CHECK(same_bits(product<reference>(x, m.packed), product<reference>(x, m.plain)));
      }
    }
  }
}

TEST_CASE("the bits of a result depend neither on the number of threads nor on the other rows") {
  Random random(3);
  const Matrices<NF4> m(random, 104, 512, 64, true);
  const Grid x(random, 9, 512);
  const auto all = product<Simd>(x, m.packed, 1);
  CHECK(same_bits(product<Simd>(x, m.packed, 2), all));
  CHECK(same_bits(product<Simd>(x, m.packed, 5), all));
  for (std::size_t r = 0; r < 9; ++r) {
    Grid row(1, 512);
    std::copy_n(x.matrix()[r], 512, row.memory().begin());
    CHECK(same_bits(product<Simd>(row, m.packed), std::span(all).subspan(r * 104, 104)));
  }
}

TEST_CASE("bias, gate and mask") {
  Random random(4);
  const Matrices<NF4> m(random, 16, 64, 64, false);
  const Grid x(random, 3, 64);
  const std::vector<float> bias = random.normals(16);
  const std::vector<std::uint8_t> mask{1, 0, 1};
  const auto plain = product<Simd>(x, m.packed);
  const auto found =
      product<Simd>(x, m.packed, 2, {.bias = bias.data(), .accumulate = true, .scale = 0.25F, .row_mask = mask.data()});
  for (std::size_t r = 0; r < 3; ++r) {
    for (std::size_t c = 0; c < 16; ++c) {
      const float expected = mask[r] != 0 ? 0.5F + 0.25F * (plain[r * 16 + c] + bias[c]) : 0.5F;
      CHECK(found[r * 16 + c] == doctest::Approx(expected).epsilon(1e-6));
    }
  }
}

TEST_CASE("NaN stays in its row") {
  Random random(5);
  const Matrices<NF4> m(random, 16, 128, 64, false);
  Grid x(random, 4, 128);
  x.matrix()[1][70] = std::nanf("");
  const auto y = product<Simd>(x, m.packed);
  for (std::size_t r = 0; r < 4; ++r) {
    for (std::size_t c = 0; c < 16; ++c) CHECK(std::isnan(y[r * 16 + c]) == (r == 1));
  }
}
