// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include <mllama/core/context.hpp>
#include <mllama/core/tensor.hpp>
#include <mllama/kernels/keys.hpp>

namespace mllama::kernels {

/// The oracle: two passes over the visible keys of each query, in double.
template <class Ctx>
void attention_body(reference, Ctx& ctx, const Heads& heads, Matrix<const float> q, std::span<const KeyBlock> blocks,
                    const Visibility& visible, Matrix<float> out) {
  const std::size_t dim = heads.head_dim, group = heads.heads / heads.kv_heads;
  const double scale = 1 / std::sqrt(static_cast<double>(dim));
  ctx.parallel(q.rows, 1, [&](std::size_t begin, std::size_t end, unsigned) {
    for (std::size_t r = begin; r < end; ++r) {
      for (std::size_t h = 0; h < heads.heads; ++h) {
        const float* query = q[r] + h * dim;
        const auto element = [&](const KeyRows& rows, std::size_t key, std::size_t i) {
          return double{key_element(rows, heads.keys(), key, h / group, i)};
        };
        const auto score = [&](const KeyBlock& block, std::size_t key) {
          double sum = 0;
          for (std::size_t i = 0; i < dim; ++i) sum += double{query[i]} * element(block.keys, key, i);
          return sum * scale;
        };
        double most = -std::numeric_limits<double>::infinity(), total = 0;
        for (const KeyRange& range : visible.of_row(r)) {
          for (std::size_t key = range.begin; key < range.end; ++key) most = std::max(most, score(blocks[range.block], key));
        }
        for (std::size_t i = 0; i < dim; ++i) {
          double sum = 0;
          total = 0;
          for (const KeyRange& range : visible.of_row(r)) {
            const KeyBlock& block = blocks[range.block];
            for (std::size_t key = range.begin; key < range.end; ++key) {
              const double weight = std::exp(score(block, key) - most);
              total += weight;
              sum += weight * element(block.values, key, i);
            }
          }
          out[r][h * dim + i] = total == 0 ? 0.0F : static_cast<float>(sum / total);
        }
      }
    }
  });
}

}  // namespace mllama::kernels
