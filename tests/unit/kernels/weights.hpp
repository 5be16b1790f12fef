// SPDX-License-Identifier: MIT
#pragma once

#include <bit>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <vector>

#include <mllama/core/format.hpp>

#include "operands.hpp"

/// Random matrices of weights in any format.

namespace mllama_test {

using mllama::BF16;
using mllama::BlockFormat;
using mllama::DenseFormat;
using mllama::F32;
using mllama::RowFormat;
using mllama::Weights;

/// Owns what a matrix of weights refers to.
template <class F>
struct Owned;

template <DenseFormat F>
struct Owned<F> {
  std::vector<typename F::stored> data;
  Weights<F> weights;

  Owned(Random& random, std::size_t rows, std::size_t columns) : data(rows * columns) {
    for (auto& element : data) {
      if constexpr (std::same_as<F, F32>) {
        element = random.normal();
      } else if constexpr (std::same_as<F, BF16>) {
        element = static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(random.normal()) >> 16U);
      } else {  // binary16 in ±[2^-6, 4), and some subnormal ones
        element = static_cast<std::uint16_t>(random.below(2) << 15U |
                                             (random.below(9) == 0 ? random.below(1024) : 0x2400U + random.below(0x2000)));
      }
    }
    weights = {data.data(), rows, columns};
  }
};

template <BlockFormat F>
struct Owned<F> {
  std::vector<std::uint8_t> codes, absmax_codes;
  std::vector<float> absmax, nested_absmax, map;
  Weights<F> weights;

  Owned(Random& random, std::size_t rows, std::size_t columns, std::size_t block = 64, bool nested = false) {
    const std::size_t elements = rows * columns, blocks = (elements + block - 1) / block;
    codes.resize((elements + 1) / 2);
    for (auto& byte : codes) byte = static_cast<std::uint8_t>(random.below(256));
    weights.codes = codes.data();
    weights.rows = rows;
    weights.columns = columns;
    weights.block = block;
    if (!nested) {
      for (std::size_t b = 0; b < blocks; ++b) absmax.push_back(std::abs(random.normal()));
      weights.absmax = absmax.data();
      return;
    }
    for (std::size_t b = 0; b < blocks; ++b) absmax_codes.push_back(static_cast<std::uint8_t>(random.below(256)));
    weights.nested_block = 4;
    for (std::size_t b = 0; b < blocks; b += weights.nested_block) nested_absmax.push_back(std::abs(random.normal()));
    for (int i = 0; i < 256; ++i) map.push_back(static_cast<float>(i - 127) / 128);
    weights.absmax_codes = absmax_codes.data();
    weights.nested_absmax = nested_absmax.data();
    weights.nested_map = map.data();
    weights.nested_offset = 0.75F;
  }
};

template <RowFormat F>
struct Owned<F> {
  std::vector<typename F::code> codes;
  std::vector<float> scales;
  Weights<F> weights;

  Owned(Random& random, std::size_t rows, std::size_t columns) : codes(rows * columns), scales(rows) {
    for (auto& code : codes) code = static_cast<typename F::code>(random.below(256));
    for (float& scale : scales) scale = std::abs(random.normal());
    weights = {codes.data(), rows, columns, scales.data()};
  }
};

}  // namespace mllama_test
