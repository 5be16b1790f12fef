// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include <mllama/kernels/embedding.hpp>

#include "operands.hpp"

namespace {

using namespace mllama;
using mllama_test::Random;

}  // namespace

TEST_CASE("rows are looked up, in any order and more than once") {
  Random random(1);
  const std::vector<float> numbers = random.normals(7 * 5);
  const Weights<AnyOf<BF16, F32>> table{Weights<F32>{.data = numbers.data(), .rows = 7, .columns = 5}};
  const std::vector<std::int32_t> ids{6, 0, 3, 3};
  std::vector<float> out(ids.size() * 5);
  Context ctx(2);
  kernels::embed(ctx, ids, table, Matrix<float>{out.data(), ids.size(), 5, 5});
  for (std::size_t r = 0; r < ids.size(); ++r) {
    for (std::size_t i = 0; i < 5; ++i) CHECK(out[r * 5 + i] == numbers[static_cast<std::size_t>(ids[r]) * 5 + i]);
  }
  kernels::embed(ctx, {}, table, Matrix<float>{out.data(), 0, 5, 5});
}

TEST_CASE("a stretch of a table is added, of every length and from every place") {
  Random random(2);
  std::vector<std::uint16_t> halves(5000);
  for (auto& half : halves) half = static_cast<std::uint16_t>(0x3c00U + random.below(512));
  const Weights<BF16> table{.data = halves.data(), .rows = 5, .columns = 1000};
  Context ctx(3);
  for (const std::size_t length : {0U, 1U, 255U, 256U, 257U, 1023U, 1024U, 1025U, 4000U}) {
    const std::size_t first = random.below(halves.size() - length);
    CAPTURE(length);
    CAPTURE(first);
    std::vector<float> x(length, 1.0F);
    kernels::add_scaled(ctx, table, first, 0.5F, x);
    for (std::size_t i = 0; i < length; ++i) REQUIRE(x[i] == 1.0F + 0.5F * BF16::decode(halves[first + i]));
  }
}
