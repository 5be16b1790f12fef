// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <fstream>
#include <limits>
#include <random>
#include <span>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include <mllama/core/encode.hpp>
#include <mllama/io/image.hpp>  // for its CRC-32

#include "sha256.hpp"

using namespace mllama;

namespace {

float from_bits(std::uint32_t bits) { return std::bit_cast<float>(bits); }
std::uint32_t bits_of(float value) { return std::bit_cast<std::uint32_t>(value); }

/// 32-bit finaliser of MurmurHash3 over a counter, as tests/golden/make_formats.py has it.
std::uint32_t hash(std::size_t i, std::uint32_t seed) {
  std::uint32_t x = static_cast<std::uint32_t>(i) * 0x9E3779B9U + seed;
  x = (x ^ x >> 16U) * 0x85EBCA6BU;
  x = (x ^ x >> 13U) * 0xC2B2AE35U;
  return x ^ x >> 16U;
}

/// The numbers of make_formats.py: see README.md there.
std::vector<float> numbers(std::string_view kind, std::span<const float> ties, std::size_t count, std::uint32_t seed) {
  std::vector<float> values(count);
  for (std::size_t i = 0; i < count; ++i) {
    const std::uint32_t x = hash(i, seed), sign = x & 0x80000000U, fraction = x & 0x7fffffU, exponent = x >> 23U & 255U;
    std::uint32_t bits = 0;
    if (kind == "spread" || (kind == "zeros" && i / 96 % 2 != 0)) {
      bits = sign | (111 + exponent % 30) << 23U | fraction;
    } else if (kind == "any") {
      bits = sign | exponent % 254 << 23U | fraction;
    } else if (kind == "tiny") {
      bits = sign | exponent % 4 << 23U | fraction;
    } else if (kind == "ties") {
      const float tie = ties[x % 15];
      bits = tie == 0 ? 0 : i % 32 == 0 ? bits_of(1) : bits_of(tie) + x / 15 % 5 - 2;
    }
    values[i] = from_bits(bits);
  }
  return values;
}

/// Rounded to a narrower type and back.
void narrow(std::vector<float>& values, std::string_view dtype) {
  for (float& value : values) {
    if (dtype == "BF16") value = BF16::decode(BF16::encode(value));
    if (dtype == "F16") value = F16::decode(F16::encode(value));
  }
}

template <class T>
std::string crc(std::span<const T> values) {
  mllama::detail::Crc32 sum;
  sum.add(std::as_bytes(values));
  std::string text;
  for (int shift = 28; shift >= 0; shift -= 4) text += "0123456789abcdef"[sum.value() >> shift & 15U];
  return text;
}
template <class T>
std::string crc(const std::vector<T>& values) {
  return crc(std::span<const T>(values));
}
/// Of decoded numbers, -0 as +0, in a format.
template <class F>
std::string crc_as(const std::vector<float>& values) {
  std::vector<typename F::stored> stored(values.size());
  std::ranges::transform(values, stored.begin(), [](float value) { return F::encode(F::decode(F::encode(value)) + 0.0F); });
  return crc(stored);
}

/// Rows of a table, fields by the names of its first line.
template <class Use>
std::size_t for_each_row(const std::string& file, Use&& use) {
  std::ifstream in(MLLAMA_TEST_DATA "/golden/formats/" + file);
  std::string line, cell;
  std::vector<std::string> names;
  std::size_t count = 0;
  while (std::getline(in, line)) {
    std::vector<std::string> cells;
    for (std::istringstream fields(line); std::getline(fields, cell, '\t');) cells.push_back(cell);
    if (names.empty()) {
      names = cells;
      continue;
    }
    CAPTURE(line);
    use([&](std::string_view name) { return cells.at(static_cast<std::size_t>(std::ranges::find(names, name) - names.begin())); });
    ++count;
  }
  return count;
}

template <BlockFormat F, class Field>
void check_four_bit(const Field& field) {
  constexpr std::size_t count = 400'003;
  const std::size_t block = std::stoul(field("block")), blocks = (count + block - 1) / block;
  std::vector<float> values =
      numbers(field("kind"), mllama::detail::thresholds<F>, count, static_cast<std::uint32_t>(std::stoul(field("seed"))));
  narrow(values, field("dtype"));
  std::vector<std::uint8_t> codes((count + 1) / 2);
  std::vector<float> absmax(blocks), decoded(count);
  CHECK(encode_blocks<F>(values, block, codes.data(), absmax.data()));
  CHECK(crc(codes) == field("codes"));
  CHECK(crc(absmax) == field("absmax"));
  Weights<F> weights{.codes = codes.data(), .rows = 1, .columns = count, .block = block, .absmax = absmax.data()};
  weights.decode(0, decoded);
  CHECK(crc_as<F32>(decoded) == field("f32"));
  CHECK(crc_as<BF16>(decoded) == field("bf16"));
  CHECK(crc_as<F16>(decoded) == field("f16"));

  if (field("nested_codes") == "-") return;
  std::vector<std::uint8_t> scales(blocks);
  std::vector<float> groups((blocks + 255) / 256);
  const std::array<float, 256> map = dynamic_map();
  weights.nested_offset = encode_scales(absmax, scales.data(), groups.data());
  CHECK(crc(scales) == field("nested_codes"));
  CHECK(crc(groups) == field("nested_absmax"));
  CHECK(bits_of(weights.nested_offset) == std::stoul(field("offset"), nullptr, 16));
  weights.absmax = nullptr;
  weights.absmax_codes = scales.data();
  weights.nested_absmax = groups.data();
  weights.nested_map = map.data();
  weights.decode(0, decoded);
  CHECK(crc_as<F32>(decoded) == field("nested_f32"));
}

template <BlockFormat F>
std::vector<std::uint8_t> codes_of(const std::vector<float>& values, std::size_t block = 64) {
  std::vector<std::uint8_t> bytes((values.size() + 1) / 2), codes;
  std::vector<float> absmax(values.size() / block + 1);
  REQUIRE(encode_blocks<F>(values, block, bytes.data(), absmax.data()));
  for (const std::uint8_t byte : bytes) {
    codes.push_back(byte >> 4U);
    codes.push_back(byte & 15U);
  }
  return codes;
}

}  // namespace

TYPE_TO_STRING(NF4);
TYPE_TO_STRING(FP4);

TEST_CASE("11 million numbers are quantised and dequantised as bitsandbytes does it") {
  const std::size_t rows = for_each_row(
      "four_bit.tsv", [](const auto& field) { field("type") == "nf4" ? check_four_bit<NF4>(field) : check_four_bit<FP4>(field); });
  CHECK(rows == 28);
}

TEST_CASE("rows are quantised to bytes as bitsandbytes does it") {
  const std::size_t tables = for_each_row("int8.tsv", [](const auto& field) {
    const std::size_t rows = std::stoul(field("rows")), columns = std::stoul(field("columns"));
    std::vector<float> values = numbers(field("kind"), {}, rows * columns, static_cast<std::uint32_t>(std::stoul(field("seed"))));
    narrow(values, field("dtype"));
    std::vector<std::int8_t> codes(values.size());
    std::vector<float> scales(rows), decoded(values.size());
    for (std::size_t r = 0; r < rows; ++r) {
      scales[r] = encode_row(std::span(values).subspan(r * columns, columns), codes.data() + r * columns);
    }
    CHECK(crc(codes) == field("codes"));
    CHECK(crc(scales) == field("scales"));
    Weights<Int8>{codes.data(), rows, columns, scales.data()}.decode(0, decoded);
    CHECK(crc_as<F32>(decoded) == field("f32"));
  });
  CHECK(tables == 24);
}

TEST_CASE_TEMPLATE("what decodes to itself is encoded to itself", F, NF4, FP4) {
  for (const std::size_t block : {32U, 64U, 4096U}) {
    std::vector<float> values(block);
    for (std::size_t i = 0; i < block; ++i) values[i] = 3 * F::table[i % 16];
    const auto codes = codes_of<F>(values, block);
    for (std::size_t i = 0; i < block; ++i) CHECK(F::table[codes[i]] == F::table[i % 16]);
  }
}

TEST_CASE_TEMPLATE("every number gets the nearest code, a tie the smaller value", F, NF4, FP4) {
  constexpr unsigned seed = 5;
  CAPTURE(seed);
  std::mt19937 random(seed);
  std::uniform_real_distribution<float> uniform(-1, 1);
  std::vector<float> values{1};
  while (values.size() < 4096) values.push_back(uniform(random));
  for (std::size_t i = 0; i < 15; ++i) values[1 + i] = mllama::detail::thresholds<F>[i];
  const auto codes = codes_of<F>(values, 4096);
  for (std::size_t i = 0; i < values.size(); ++i) {
    const auto distance = [&](float entry) { return std::abs(double{entry} - double{values[i]}); };
    const float found = F::table[codes[i]], best = *std::ranges::min_element(F::table, {}, distance);
    CHECK(distance(found) <= distance(best) * (1 + 1e-6) + 1e-9);  // thresholds are rounded
    if (i >= 1 && i <= 15) CHECK(found <= values[i]);
  }
}

TEST_CASE_TEMPLATE("zeros get the code of zero, and pad an odd number of elements", F, NF4, FP4) {
  for (const std::size_t count : {1U, 63U, 64U, 65U}) {
    for (const std::uint8_t code : codes_of<F>(std::vector<float>(count, 0.0F))) CHECK(code == (std::same_as<F, NF4> ? 7 : 0));
  }
}

TEST_CASE_TEMPLATE("NaN and infinity are told, wherever they are", F, NF4, FP4) {
  for (const float bad : {std::nanf(""), -std::nanf(""), HUGE_VALF, -HUGE_VALF}) {
    for (const std::size_t at : {0U, 1U, 63U, 64U, 99U}) {
      std::vector<float> values(100, 0.5F), absmax(2);
      std::vector<std::uint8_t> codes(50);
      values[at] = bad;
      CHECK_FALSE(encode_blocks<F>(values, 64, codes.data(), absmax.data()));
      std::vector<std::int8_t> bytes(100);
      CHECK_FALSE(std::isfinite(encode_row(values, bytes.data())));
    }
  }
}

TEST_CASE("the dynamic map is the published one") {
  const std::array<float, 256> map = dynamic_map();
  CHECK(mllama_test::sha256(std::as_bytes(std::span(map))) == "e732639a65f497b4ad684bb166a4467708255edd5207757de8b8f0c7e1fda89c");
  CHECK(std::ranges::is_sorted(map));
  CHECK(map[127] == 0);
  for (std::size_t k = 0; k <= 126; ++k) CHECK(map[126 - k] == -map[128 + k]);
}

TEST_CASE("nested scales: the nearest code, ties to the even one") {
  const std::array<float, 256> map = dynamic_map();
  // A group of scales whose mean is 0 and whose largest difference from it is 1.
  const auto code_of = [](float value) {
    const std::vector<float> absmax{1, -1, value, -value};
    std::vector<std::uint8_t> codes(4);
    float group = 0;
    CHECK(encode_scales(absmax, codes.data(), &group) == 0);
    CHECK(group == 1);
    return codes[2];
  };
  for (const auto& [value, code] : {std::pair{-1.0F, 0},
                                    {-0.5F, 35},
                                    {-1e-9F, 127},
                                    {0.0F, 127},
                                    {1e-7F, 127},
                                    {1e-3F, 142},
                                    {0.5F, 219},
                                    {0.99F, 254},
                                    {1.0F, 255}}) {
    CHECK(code_of(value) == code);
  }
  for (std::size_t i = 0; i < 255; ++i) {
    const float middle = (map[i] + map[i + 1]) * 0.5F;
    CHECK(code_of(middle) == i + i % 2);
    CHECK(code_of(map[i]) == i);
  }
  std::vector<std::uint8_t> codes(300, 1);
  std::vector<float> groups(2, 1);
  CHECK(encode_scales(std::vector<float>(300, 0.25F), codes.data(), groups.data()) == 0.25F);
  CHECK(std::ranges::count(codes, 127) == 300);
  CHECK(groups == std::vector<float>{0, 0});
}

TEST_CASE("rows of bytes: halves go to the even code, zeros have the scale 0") {
  const std::vector<float> values{127, 0.5F, 1.5F, 2.5F, -0.5F, -1.5F, -127, 126.5F};
  std::vector<std::int8_t> codes(values.size());
  CHECK(encode_row(values, codes.data()) == 127);
  CHECK(codes == std::vector<std::int8_t>{127, 0, 2, 2, 0, -2, -127, 126});
  std::vector<std::int8_t> zeros(3, 1);
  CHECK(encode_row(std::vector<float>(3, -0.0F), zeros.data()) == 0);
  CHECK(zeros == std::vector<std::int8_t>(3, 0));
  CHECK(std::isinf(encode_row(std::vector<float>{65520}, codes.data())));
}
