// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <vector>

#include <mllama/kernels/attention.hpp>

#include "operands.hpp"

/// Keys, values and masks of attention's tests.

namespace mllama_test {

using mllama::kernels::Heads;
using mllama::kernels::KeyRange;

/// Float32 scores of up to 128 products pass through an exponential, and up to 300 values are summed.
inline constexpr double attention_tolerance = 2e-6;

/// Keys and values of one block.
struct Block {
  std::vector<float> keys, values;
  Block(Random& random, const Heads& heads, std::size_t count)
      : keys(random.normals(count * heads.kv_heads * heads.head_dim)), values(random.normals(keys.size())) {}
};

/// The sets of a visibility, under construction.
struct Sets {
  std::vector<std::uint32_t> set_of_row, first{0};
  std::vector<KeyRange> ranges;

  /// One more row with a set of its own.
  void add_row(std::initializer_list<KeyRange> seen) {
    set_of_row.push_back(static_cast<std::uint32_t>(first.size() - 1));
    ranges.insert(ranges.end(), seen);
    first.push_back(static_cast<std::uint32_t>(ranges.size()));
  }
  /// One more row that sees what the row before sees.
  void repeat_row() { set_of_row.push_back(set_of_row.back()); }
  [[nodiscard]] mllama::kernels::Visibility view() const { return {set_of_row, first, ranges}; }
};

[[nodiscard]] inline Sets causal(std::size_t rows, std::size_t before = 0) {
  Sets sets;
  for (std::size_t r = 0; r < rows; ++r) sets.add_row({{0, 0, static_cast<std::uint32_t>(before + r + 1)}});
  return sets;
}

[[nodiscard]] inline Sets all(std::size_t rows, std::size_t keys) {
  Sets sets;
  for (std::size_t r = 0; r < rows; ++r) r == 0 ? sets.add_row({{0, 0, static_cast<std::uint32_t>(keys)}}) : sets.repeat_row();
  return sets;
}

}  // namespace mllama_test
