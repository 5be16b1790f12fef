// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include <mllama/core/format.hpp>

using namespace mllama;

namespace {

float from_bits(std::uint32_t bits) { return std::bit_cast<float>(bits); }
std::uint32_t bits_of(float value) { return std::bit_cast<std::uint32_t>(value); }

/// Binary16 by its definition: sign, five bits of exponent with a bias of 15, ten of fraction.
double half_by_definition(std::uint32_t bits) {
  const double sign = (bits & 0x8000U) != 0 ? -1 : 1, fraction = bits & 1023U;
  const int exponent = static_cast<int>(bits >> 10U & 31U);
  if (exponent == 31) return fraction == 0 ? sign * HUGE_VAL : std::nan("");
  return sign * (exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25));
}

}  // namespace

static_assert(DenseFormat<F32> && DenseFormat<BF16> && DenseFormat<F16> && !DenseFormat<NF4>);
static_assert(BlockFormat<NF4> && BlockFormat<FP4> && !BlockFormat<BF16> && !BlockFormat<Int8>);
static_assert(RowFormat<Int8> && !RowFormat<NF4> && !RowFormat<F32> && !DenseFormat<Int8>);
static_assert(WeightFormat<Stored> && WeightFormat<StoredFloat> && !WeightFormat<int>);
static_assert(std::same_as<nominal_format<Stored>, NF4> && std::same_as<nominal_format<BF16>, BF16>);

TEST_CASE("all numbers of binary16 and bfloat16") {
  for (std::uint32_t bits = 0; bits < 65536; ++bits) {
    const float half = F16::decode(static_cast<std::uint16_t>(bits)), brain = BF16::decode(static_cast<std::uint16_t>(bits));
    const double expected = half_by_definition(bits);
    if (std::isnan(expected)) {
      REQUIRE(std::isnan(half));
    } else {
      REQUIRE(double{half} == expected);
      REQUIRE(std::signbit(half) == ((bits & 0x8000U) != 0));
    }
    REQUIRE(bits_of(brain) == bits << 16U);
  }
}

TEST_CASE("NF4: 64 numbers from -2 to 2 as bitsandbytes packs them") {
  constexpr std::string_view hex = "000001111111122222333344455566677788999aaabbbccccddddeeeeeeeffff";
  const auto digit = [](char c) { return static_cast<std::uint8_t>(c <= '9' ? c - '0' : c - 'a' + 10); };
  std::vector<std::uint8_t> codes;
  for (std::size_t i = 0; i + 1 < hex.size(); i += 2)
    codes.push_back(static_cast<std::uint8_t>(digit(hex[i]) << 4U | digit(hex[i + 1])));
  const float absmax = 2;
  Weights<NF4> weights;
  weights.codes = codes.data();
  weights.rows = 1;
  weights.columns = 64;
  weights.absmax = &absmax;
  std::array<float, 64> out{};
  weights.decode(0, out);
  for (std::size_t i = 0; i < 64; ++i) {
    CAPTURE(i);
    CHECK(out[i] == NF4::table[digit(hex[i])] * 2);
    const double original = (static_cast<double>(i) - 32) / 16;
    for (const float entry : NF4::table) CHECK(std::abs(original - double{out[i]}) <= std::abs(original - 2 * double{entry}));
  }
  CHECK(weights.bytes() == 32 + 4);
}

TEST_CASE("nested scales are rounded twice, as bitsandbytes does it") {
  struct Case {
    std::uint32_t map, scale;
  };
  const std::vector<Case> cases{{0xbf7e3333U, 0x3cb69225U}, {0xbf7a999aU, 0x3cb7fce2U}, {0xbdc9eb85U, 0x3d085842U},
                                {0xb513a3b7U, 0x3d0d4fddU}, {0x00000000U, 0x3d0d4fdfU}, {0x3513a3b7U, 0x3d0d4fe1U},
                                {0x37b24206U, 0x3d0d5025U}, {0x3e6f3333U, 0x3d1914a5U}, {0x3f7e3333U, 0x3d3f56acU},
                                {0x3f800000U, 0x3d3fb15bU}};
  std::vector<float> map;
  std::vector<std::uint8_t> codes;
  for (const Case& one : cases) {
    codes.push_back(static_cast<std::uint8_t>(map.size()));
    map.push_back(from_bits(one.map));
  }
  map.resize(256);
  const float nested = from_bits(0x3c4985f0U);
  Weights<NF4> weights;
  weights.absmax_codes = codes.data();
  weights.nested_absmax = &nested;
  weights.nested_map = map.data();
  weights.nested_offset = from_bits(0x3d0d4fdfU);
  for (std::size_t i = 0; i < cases.size(); ++i) {
    CAPTURE(i);
    CHECK(bits_of(weights.scale(i)) == cases[i].scale);
  }
}

TEST_CASE("every code times a scale") {
  const std::array<std::uint32_t, 16> expected{0xbd0d4fdfU, 0xbcc4c2c3U, 0xbc9465f3U, 0xbc5f39f0U, 0xbc20c7a9U, 0xbbd0e2b8U,
                                               0xbb4ddd08U, 0x00000000U, 0x3b33ee30U, 0x3bb5ee52U, 0x3c0b1d4fU, 0x3c3f0183U,
                                               0x3c791c3fU, 0x3c9f0252U, 0x3ccc5330U, 0x3d0d4fdfU};
  const std::array<std::uint8_t, 8> codes{0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef};
  const float scale = from_bits(0x3d0d4fdfU);
  Weights<NF4> weights;
  weights.codes = codes.data();
  weights.rows = 1;
  weights.columns = 16;
  weights.absmax = &scale;
  std::array<float, 16> out{};
  weights.decode(0, out);
  for (std::size_t i = 0; i < 16; ++i) CHECK(bits_of(out[i]) == expected[i]);
}

TEST_CASE("FP4: magnitudes are twelfths, and minus zero is zero") {
  constexpr std::array<double, 8> twelfths{0, 0.0625, 8, 12, 4, 6, 2, 3};
  for (std::size_t code = 0; code < 8; ++code) {
    CHECK(FP4::table[code] == static_cast<float>(twelfths[code] / 12));
    CHECK(FP4::table[code + 8] == -FP4::table[code]);
  }
  CHECK(bits_of(FP4::table[1]) == 0x3baaaaabU);
  CHECK(bits_of(FP4::table[8]) == 0);
}

TEST_CASE("8-bit rows: a product with the scale, then one with 1 / 127") {
  static constexpr std::array<std::int8_t, 4> codes{127, -127, 3, -128};
  static constexpr std::array<float, 2> scales{0.1F, 3};
  const Weights<Int8> weights{.codes = codes.data(), .rows = 2, .columns = 2, .scales = scales.data()};
  std::vector<float> all(4);
  weights.decode(0, all);
  const auto expected = [&](std::size_t i) {
    const volatile float scaled = static_cast<float>(codes[i]) * scales[i / 2];
    return scaled * 7.874015718698502e-3F;
  };
  for (std::size_t i = 0; i < all.size(); ++i) CHECK(all[i] == expected(i));
  for (std::size_t first = 0; first < 4; ++first) {
    for (std::size_t count = 0; first + count <= 4; ++count) {
      std::vector<float> some(count);
      weights.decode(first, some);
      for (std::size_t i = 0; i < count; ++i) CHECK(some[i] == all[first + i]);
    }
  }
  CHECK(weights.bytes() == 4 + 8);
}
