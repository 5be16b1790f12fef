// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <cmath>
#include <cstddef>
#include <limits>
#include <vector>

#include <mllama/kernels/keys.hpp>

#include "operands.hpp"

using namespace mllama;
using kernels::KeptKeys;
using kernels::KeyShape;
using mllama_test::Random;

namespace {
std::vector<float> read(const KeptKeys& kept, const KeyShape& shape, std::size_t positions) {
  std::vector<float> elements;
  for (std::size_t position = 0; position < positions; ++position) {
    for (std::size_t head = 0; head < shape.heads; ++head) {
      for (std::size_t i = 0; i < shape.dim; ++i) elements.push_back(kernels::key_element(kept, shape, position, head, i));
    }
  }
  return elements;
}
}  // namespace

TEST_CASE("keys are the nearest numbers of their format") {
  Random random(3);
  for (const KeyShape shape : {KeyShape{1, 1}, KeyShape{2, 5}, KeyShape{8, 128}}) {
    const auto rows = random.normals(7 * shape.width());
    const auto kept = [&](KeyFormat format) {
      KeptKeys keys(format, shape, 9);
      keys.write(shape, 0, 3, rows.data());  // in two goes
      keys.write(shape, 3, 4, rows.data() + 3 * shape.width());
      return read(keys, shape, 7);
    };
    CHECK(kept(KeyFormat::f32) == rows);
    const auto bf16 = kept(KeyFormat::bf16), f16 = kept(KeyFormat::f16), int8 = kept(KeyFormat::int8);
    for (std::size_t i = 0; i < rows.size(); ++i) {
      CHECK(bf16[i] == BF16::decode(BF16::encode(rows[i])));
      CHECK(f16[i] == F16::decode(F16::encode(rows[i])));
      float most = 0;
      for (std::size_t j = i / shape.dim * shape.dim, end = j + shape.dim; j < end; ++j) most = std::max(most, std::fabs(rows[j]));
      CHECK(std::fabs(int8[i] - rows[i]) <= most / 254 * 1.0001F);
    }
  }
}

TEST_CASE("heads of zeros, of tiny numbers, and of what is not finite") {
  constexpr KeyShape shape{4, 2};
  const float infinity = std::numeric_limits<float>::infinity();
  const std::vector<float> row{0, -0.0F, 1e-39F, 0, infinity, 1, std::numeric_limits<float>::quiet_NaN(), 1};
  KeptKeys keys(KeyFormat::int8, shape, 1);
  keys.write(shape, 0, 1, row.data());
  const auto found = read(keys, shape, 1);
  for (std::size_t i = 0; i < 4; ++i) CHECK(found[i] == 0);
  for (std::size_t i = 4; i < 8; ++i) CHECK(std::isnan(found[i]));
}

TEST_CASE("more room keeps what is there, and takes the bytes of its format") {
  Random random(5);
  constexpr KeyShape shape{2, 8};
  const auto rows = random.normals(4 * shape.width());
  for (const auto& [format, bytes] : {std::pair(KeyFormat::f32, 64U), std::pair(KeyFormat::bf16, 32U),
                                      std::pair(KeyFormat::f16, 32U), std::pair(KeyFormat::int8, 16U + 8U)}) {
    KeptKeys keys(format);
    CHECK(keys.bytes() == 0);
    keys.reserve(shape, 4, 0);
    CHECK(keys.bytes() == 4 * bytes);
    keys.write(shape, 0, 4, rows.data());
    const auto before = read(keys, shape, 3);
    keys.reserve(shape, 11, 3);
    CHECK(keys.bytes() == 11 * bytes);
    CHECK(keys.format() == format);
    CHECK(read(keys, shape, 3) == before);
  }
}
