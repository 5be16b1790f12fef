// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <vector>

#include <mllama/kernels/attention_probabilities.hpp>

#include "operands.hpp"

namespace {

using namespace mllama;
using kernels::Heads;
using kernels::KeyBlock;
using kernels::KeyRange;
using mllama_test::Grid;
using mllama_test::Random;
using mllama_test::relative_error;
using mllama_test::same_bits;

/// Float32 scores of up to 80 products pass through an exponential.
constexpr double probability_tolerance = 2e-6;

std::vector<float> probabilities(const Heads& heads, const Grid& q, std::span<const KeyBlock> blocks,
                                 const kernels::Visibility& visible, unsigned threads = 2) {
  std::vector<float> out(heads.heads * q.matrix().rows * kernels::count_keys(blocks), 99);
  Context<> ctx(threads);
  kernels::attention_probabilities(ctx, heads, q.matrix(), blocks, visible, out.data());
  return out;
}

/// In double, from the words of the docstring.
std::vector<float> expected(const Heads& heads, const Grid& q, std::span<const KeyBlock> blocks,
                            const kernels::Visibility& visible) {
  std::vector<float> out;
  const std::size_t rows = q.matrix().rows, dim = heads.head_dim;
  for (std::size_t h = 0; h < heads.heads; ++h) {
    for (std::size_t r = 0; r < rows; ++r) {
      std::vector<double> weights;
      double total = 0;
      for (std::uint32_t b = 0; b < blocks.size(); ++b) {
        for (std::size_t k = 0; k < blocks[b].count; ++k) {
          double score = 0, weight = 0;
          for (std::size_t d = 0; d < dim; ++d) {
            score += double{q.matrix()[r][h * dim + d]} *
                     double{kernels::key_element(blocks[b].keys, heads.keys(), k, h * heads.kv_heads / heads.heads, d)};
          }
          for (const KeyRange& range : visible.of_row(r)) {
            if (range.block == b && range.begin <= k && k < range.end) weight = std::exp(score / std::sqrt(double(dim)));
          }
          total += weight;
          weights.push_back(weight);
        }
      }
      for (const double weight : weights) out.push_back(total == 0 ? 0 : static_cast<float>(weight / total));
    }
  }
  return out;
}

}  // namespace

TEST_CASE("probabilities of several blocks in every format, with rows that see parts of them or nothing") {
  Random random(11);
  for (const std::size_t dim : std::initializer_list<std::size_t>{1, 3, 8, 13, 80}) {
    for (const Heads& heads : {Heads{1, 1, dim}, Heads{4, 4, dim}, Heads{6, 2, dim}}) {
      CAPTURE(dim);
      CAPTURE(heads.heads);
      std::vector<kernels::KeptKeys> kept;
      std::vector<KeyBlock> blocks;
      for (const KeyFormat format : {KeyFormat::f32, KeyFormat::bf16, KeyFormat::f16, KeyFormat::int8}) {
        const std::size_t count = 5 + kept.size();
        const auto numbers = random.normals(count * heads.keys().width());
        kept.emplace_back(format, heads.keys(), count).write(heads.keys(), 0, count, numbers.data());
      }
      for (std::size_t b = 0; b < kept.size(); ++b) blocks.push_back({kept[b], kept[b], 5 + b});
      const std::vector<KeyRange> ranges{{0, 0, 5}, {2, 1, 4}, {3, 0, 8}, {1, 5, 6}};
      const std::vector<std::uint32_t> first{0, 2, 2, 4}, set_of_row{0, 1, 2, 2, 0};
      const kernels::Visibility visible{set_of_row, first, ranges};
      const Grid q(random, set_of_row.size(), heads.heads * dim, 3);
      const auto found = probabilities(heads, q, blocks, visible);
      CHECK(relative_error(found, expected(heads, q, blocks, visible)) <= probability_tolerance);
      CHECK(same_bits(found, probabilities(heads, q, blocks, visible, 1)));
      CHECK(same_bits(found, probabilities(heads, q, blocks, visible, 3)));
    }
  }
}

TEST_CASE("values weighed with the probabilities are what attention gives") {
  Random random(12);
  const Heads heads{4, 2, 16};
  const std::size_t rows = 9, keys = 40;
  const auto k = random.normals(keys * heads.keys().width()), v = random.normals(k.size());
  const KeyBlock block{k.data(), v.data(), keys};
  std::vector<std::uint32_t> first{0}, set_of_row;
  std::vector<KeyRange> ranges;
  for (std::uint32_t r = 0; r < rows; ++r) {
    set_of_row.push_back(r);
    ranges.push_back({0, r, 30 + r});
    first.push_back(r + 1);
  }
  const kernels::Visibility visible{set_of_row, first, ranges};
  const Grid q(random, rows, heads.heads * heads.head_dim);
  const auto weights = probabilities(heads, q, {&block, 1}, visible);
  Grid attended(rows, heads.heads * heads.head_dim), weighed(rows, heads.heads * heads.head_dim);
  Context<> ctx(1);
  kernels::attention(ctx, heads, q.matrix(), {&block, 1}, visible, attended.matrix());
  for (std::size_t h = 0; h < heads.heads; ++h) {
    for (std::size_t r = 0; r < rows; ++r) {
      for (std::size_t key = 0; key < keys; ++key) {
        const float weight = weights[(h * rows + r) * keys + key];
        CHECK((weight != 0) == (r <= key && key < 30 + r));
        for (std::size_t d = 0; d < heads.head_dim; ++d) {
          weighed.matrix()[r][h * heads.head_dim + d] += weight * v[key * heads.keys().width() + h / 2 * heads.head_dim + d];
        }
      }
    }
  }
  CHECK(relative_error(weighed.elements(), attended.elements()) <= 4 * probability_tolerance);
}

TEST_CASE("scores of any size give probabilities") {
  const Heads heads{1, 1, 1};
  const std::vector<float> keys{1e30F, -1e30F, 1e30F, 0};
  const KeyBlock block{keys.data(), keys.data(), keys.size()};
  const std::vector<KeyRange> ranges{{0, 0, 4}};
  const std::vector<std::uint32_t> first{0, 1}, set_of_row{0};
  Grid q(1, 1, 0, 1e5F);
  CHECK(probabilities(heads, q, {&block, 1}, {set_of_row, first, ranges}) == std::vector<float>{0.5, 0, 0.5, 0});
}
