// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <limits>
#include <span>

#include <mllama/core/context.hpp>
#include <mllama/core/tensor.hpp>
#include <mllama/kernels/attention.hpp>

namespace mllama::kernels {

/// Keys of all blocks together.
[[nodiscard]] inline std::size_t count_keys(std::span<const KeyBlock> blocks) noexcept {
  std::size_t count = 0;
  for (const KeyBlock& block : blocks) count += block.count;
  return count;
}

namespace detail {
/// Query times the key of one position and head.
[[nodiscard]] inline float attention_score(const float* query, const KeyRows& keys, const KeyShape& shape, std::size_t position,
                                           std::size_t head) noexcept {
  float sum = 0;
  if (keys.format != KeyFormat::f32) {
    for (std::size_t d = 0; d < shape.dim; ++d) sum += query[d] * key_element(keys, shape, position, head, d);
    return sum;
  }
  const float* const key = keys.as<float>() + position * shape.width() + head * shape.dim;
  constexpr std::size_t lanes = 8;  // sums that compilers may keep in one register
  std::array<float, lanes> sums{};
  std::size_t d = 0;
  for (; d + lanes <= shape.dim; d += lanes) {
    for (std::size_t lane = 0; lane < lanes; ++lane) sums[lane] += query[d + lane] * key[d + lane];
  }
  for (; d < shape.dim; ++d) sum += query[d] * key[d];
  for (const float part : sums) sum += part;
  return sum;
}
}  // namespace detail

/// What `attention` weighs values with, `softmax(q kᵀ / √head_dim)`, which it never forms itself: for those who want to look at it.
/// Plain code, for every back end the same. The keys of the blocks come one block after the other; hidden ones get 0, and so does all
/// of a row that sees none.
/// Shapes:  q (rows, heads · head_dim);  out (heads, rows, keys)
template <class Ctx>
void attention_probabilities(Ctx& ctx, const Heads& heads, Matrix<const float> q, std::span<const KeyBlock> blocks,
                             const Visibility& visible, float* out) {
  const std::size_t dim = heads.head_dim, group = heads.heads / heads.kv_heads, keys = count_keys(blocks);
  const KeyShape shape = heads.keys();
  const float scale = 1 / std::sqrt(static_cast<float>(dim));
  ctx.parallel(heads.heads * q.rows, 1, [&](std::size_t begin, std::size_t end, unsigned) {
    for (std::size_t i = begin; i < end; ++i) {
      const std::size_t head = i / q.rows, row = i % q.rows;
      const float* query = q[row] + head * dim;
      float* const to = out + i * keys;
      std::fill_n(to, keys, 0.0F);
      const auto of_range = [&](const KeyRange& range) {
        const std::size_t first = count_keys(blocks.first(range.block));
        return std::span(to + first + range.begin, range.end - range.begin);
      };
      float most = -std::numeric_limits<float>::infinity();
      for (const KeyRange& range : visible.of_row(row)) {
        const std::span<float> scores = of_range(range);
        for (std::size_t k = 0; k < scores.size(); ++k) {
          scores[k] = scale * detail::attention_score(query, blocks[range.block].keys, shape, range.begin + k, head / group);
          most = std::max(most, scores[k]);
        }
      }
      double total = 0;
      for (const KeyRange& range : visible.of_row(row)) {
        for (float& score : of_range(range)) total += score = std::exp(score - most);
      }
      for (const KeyRange& range : visible.of_row(row)) {
        for (float& share : of_range(range)) share = static_cast<float>(share / total);
      }
    }
  });
}

}  // namespace mllama::kernels
