// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <mllama/generate/numbered_normals.hpp>
#include <random>
#include <utility>
#include <vector>

using namespace mllama;
using namespace mllama::detail;

TYPE_TO_STRING(NF4);
TYPE_TO_STRING(FP4);

TEST_CASE("the normal distribution and its inverses") {
  const NormalDistribution normal;
  constexpr double interpolation = 1e-6;  // h² / 8 · largest slope of the density, h = 1/256
  for (double x = -7; x < 7; x += 0.0371) {
    CAPTURE(x);
    const double expected = 0.5 * std::erfc(-x / std::sqrt(2.0));
    CHECK(std::abs(normal.below(x) - expected) < interpolation);
    CHECK(std::abs(normal.peak_below(std::abs(x)) - std::pow(std::erf(std::abs(x) / std::sqrt(2.0)), 64)) < 128 * interpolation);
  }
  for (double share = 0.001; share < 1; share += 0.0107) {
    CAPTURE(share);
    CHECK(std::abs(normal.below(normal.quantile(share)) - share) < 1e-7);
    CHECK(std::abs(normal.peak_below(normal.peak_quantile(share)) - share) < 1e-6);
  }
}

TEST_CASE("tables of numbers, peaks and codes") {
  const NormalTables tables;
  CHECK(std::ranges::is_sorted(tables.numbers));
  CHECK(std::ranges::is_sorted(tables.peaks));
  double square = 0;
  for (std::size_t i = 0; i < tables.numbers.size(); ++i) {
    square += double{tables.numbers[i]} * double{tables.numbers[i]};
    CHECK(std::abs(tables.numbers[i] + tables.numbers[tables.numbers.size() - 1 - i]) < 1e-6);
  }
  CHECK(std::abs(square / 4096 - 1) < 0.002);
  CHECK(tables.row_codes.front() == -127);
  CHECK(tables.row_codes.back() == 127);
  const std::array<float, 256> map = dynamic_map();
  for (std::size_t i = 0; i < 256; ++i) {
    const float nested = map[tables.peak_codes[i]] * tables.peak_spread + tables.peak_offset;
    CHECK(std::abs(nested - tables.peaks[i]) < 0.02F * tables.peak_spread);
  }
}

TEST_CASE_TEMPLATE("codes occur as often as in quantised normal numbers", F, NF4, FP4) {
  const auto seed = std::random_device{}();
  CAPTURE(seed);
  std::mt19937 random(seed);
  std::normal_distribution<float> numbers;
  constexpr std::size_t blocks = 20'000, count = 64 * blocks;
  std::vector<float> values(count), scales(blocks);
  for (float& value : values) value = numbers(random);
  std::vector<std::uint8_t> quantized(count / 2), drawn(count / 2);
  REQUIRE(encode_blocks<F>(values, 64, quantized.data(), scales.data()));
  const NormalTables tables;
  draw_codes<F>(NumberedWords("codes", seed), NumberedWords("peaks", seed), tables.template pairs<F>(), 0, drawn);
  const auto shares = [](const std::vector<std::uint8_t>& codes) {
    std::array<double, 16> share{};
    for (const unsigned byte : codes) {
      for (const unsigned code : {byte >> 4U, byte & 15U}) share[code] += 1.0 / count;
    }
    if (std::same_as<F, FP4>) share[0] += std::exchange(share[8], 0);  // zeros of either sign
    return share;
  };
  const auto expected = shares(quantized), found = shares(drawn);
  for (std::size_t code = 0; code < 16; ++code) {
    CAPTURE(code);
    CHECK(std::abs(found[code] - expected[code]) < 0.002);  // 6 times the standard deviation of a share of 0.1
  }

  // Decoded with scales as they occur, they have the size that is stated.
  for (float& scale : scales) scale = tables.peaks[random() % 256];
  const Weights<F> weights{.codes = drawn.data(), .rows = blocks, .columns = 64, .absmax = scales.data()};
  weights.decode(0, values);
  double square = 0;
  for (const float value : values) square += double{value} * double{value};
  CHECK(std::abs(std::sqrt(square / count) / double{tables.template decoded_size<F>()} - 1) < 0.01);
}

TEST_CASE_TEMPLATE("every block has an element of the largest magnitude, the last short one too", F, NF4, FP4) {
  const NormalTables tables;
  const auto largest = [](unsigned code) { return std::abs(F::table[code]) == 1; };
  for (std::size_t bytes = 1; bytes < 100; ++bytes) {
    CAPTURE(bytes);
    std::vector<std::uint8_t> codes(bytes);
    draw_codes<F>(NumberedWords("codes", bytes), NumberedWords("peaks", bytes), tables.template pairs<F>(), 0, codes);
    for (std::size_t begin = 0; begin < bytes; begin += 32) {
      CHECK(std::any_of(codes.begin() + static_cast<std::ptrdiff_t>(begin),
                        codes.begin() + static_cast<std::ptrdiff_t>(std::min(bytes, begin + 32)),
                        [&](unsigned byte) { return largest(byte >> 4U) || largest(byte & 15U); }));
    }
  }
}

TEST_CASE("pieces are parts of the whole") {
  const NormalTables tables;
  const NumberedWords words("name", 7), peaks("peaks", 7);
  std::vector<float> whole(1003), piece(500);
  draw<float>(words, tables.numbers, 0, whole);
  draw<float>(words, tables.numbers, 400, piece);
  CHECK(std::equal(piece.begin(), piece.end(), whole.begin() + 400));
  std::vector<std::uint8_t> codes(3200), part(1000);
  draw_codes<NF4>(words, peaks, tables.pairs<NF4>(), 0, codes);
  draw_codes<NF4>(words, peaks, tables.pairs<NF4>(), 40, part);
  CHECK(std::equal(part.begin(), part.begin() + 992, codes.begin() + 1280));  // the rest ends in the middle of a block
}

TEST_CASE("entries are equally likely, and names and seeds give others") {
  std::array<std::uint8_t, 16> table{};
  for (std::size_t i = 0; i < table.size(); ++i) table[i] = static_cast<std::uint8_t>(i);
  std::vector<std::uint8_t> drawn(1 << 20), other(64), first(64);
  draw<std::uint8_t>(NumberedWords("a", 0), table, 0, drawn);
  for (std::uint8_t entry = 0; entry < 16; ++entry) {
    CHECK(std::abs(static_cast<double>(std::ranges::count(drawn, entry)) - 65536) < 1500);  // 6 standard deviations
  }
  std::copy_n(drawn.begin(), first.size(), first.begin());
  draw<std::uint8_t>(NumberedWords("b", 0), table, 0, other);
  CHECK(other != first);
  draw<std::uint8_t>(NumberedWords("a", 1), table, 0, other);
  CHECK(other != first);
}
