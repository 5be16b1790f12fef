// SPDX-License-Identifier: MIT
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <random>
#include <span>
#include <vector>

#include <mllama/core/context.hpp>

/// Operands of the kernels' tests, and the measures by which results are compared.

namespace mllama_test {

using mllama::Matrix;

/// Random numbers whose seed is printed when a test fails.
class Random {
 public:
  explicit Random(unsigned seed) : engine_(seed) {}

  [[nodiscard]] float normal() { return distribution_(engine_); }
  [[nodiscard]] std::size_t below(std::size_t count) { return engine_() % count; }
  [[nodiscard]] std::vector<float> normals(std::size_t count) {
    std::vector<float> numbers(count);
    for (float& number : numbers) number = normal();
    return numbers;
  }

 private:
  std::mt19937 engine_;
  std::normal_distribution<float> distribution_;
};

/// A matrix in rows that lie `slack` elements further apart than they need to, and that starts `slack` elements into its memory.
class Grid {
 public:
  Grid(std::size_t rows, std::size_t width, std::size_t slack = 0, float fill = 0)
      : rows_(rows), width_(width), slack_(slack), memory_(slack + rows * (width + slack), fill) {}
  Grid(Random& random, std::size_t rows, std::size_t width, std::size_t slack = 0) : Grid(rows, width, slack) {
    for (float& number : memory_) number = random.normal();
  }

  [[nodiscard]] Matrix<float> matrix() { return {memory_.data() + slack_, rows_, width_, width_ + slack_}; }
  [[nodiscard]] Matrix<const float> matrix() const { return {memory_.data() + slack_, rows_, width_, width_ + slack_}; }
  [[nodiscard]] std::vector<float>& memory() { return memory_; }
  /// One after the other, without what lies between the rows.
  [[nodiscard]] std::vector<float> elements() const {
    std::vector<float> all;
    for (std::size_t r = 0; r < rows_; ++r) all.insert(all.end(), matrix()[r], matrix()[r] + width_);
    return all;
  }

 private:
  std::size_t rows_, width_, slack_;
  std::vector<float> memory_;
};

/// Largest difference, relative to the largest expected number. Not a number where either has one that the other has not.
[[nodiscard]] inline double relative_error(std::span<const float> found, std::span<const float> expected) {
  double difference = 0, most = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    if (std::isnan(found[i]) != std::isnan(expected[i])) return std::nan("");
    if (std::isnan(expected[i]) || found[i] == expected[i]) continue;
    difference = std::max(difference, std::abs(double{found[i]} - double{expected[i]}));
    most = std::max(most, std::abs(double{expected[i]}));
  }
  return difference == 0 ? 0 : difference / most;
}

[[nodiscard]] inline bool same_bits(std::span<const float> a, std::span<const float> b) {
  return std::ranges::equal(
      a, b, {}, [](float x) { return std::bit_cast<std::uint32_t>(x); }, [](float x) { return std::bit_cast<std::uint32_t>(x); });
}

/// What is tested against the reference: the best that this program is compiled for.
using Simd = mllama::cpu<>;

}  // namespace mllama_test
