// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include <mllama/core/context.hpp>
#include <mllama/core/tensor.hpp>
#include <mllama/kernels/keys.hpp>

/// Scaled dot-product attention over the keys that each query may see.

namespace mllama::kernels {

/// Keys and values that lie together: a cache, or one picture. Keys and values of one position are `kv_heads · head_dim` wide.
/// Attention runs over several blocks as if they were one: pictures keep their keys where they are.
struct KeyBlock {
  KeyRows keys, values;
  std::size_t count = 0;
};

/// Consecutive keys [begin, end) of block `block`.
struct KeyRange {
  std::uint32_t block = 0, begin = 0, end = 0;
};

/// Which keys each query row sees: row r sees the ranges of set `set_of_row[r]`, set s being `ranges[first[s] … first[s+1])`.
/// Hidden keys are skipped, not computed and masked. A row whose set is empty gets 0.
struct Visibility {
  std::span<const std::uint32_t> set_of_row;
  std::span<const std::uint32_t> first;
  std::span<const KeyRange> ranges;

  [[nodiscard]] std::span<const KeyRange> of_row(std::size_t row) const noexcept {
    const std::uint32_t set = set_of_row[row];
    return ranges.subspan(first[set], first[set + 1] - first[set]);
  }
};

/// Heads of an attention; query head h reads key/value head `h / (heads / kv_heads)`.
struct Heads {
  std::size_t heads = 0, kv_heads = 0, head_dim = 0;
  [[nodiscard]] constexpr KeyShape keys() const noexcept { return {kv_heads, head_dim}; }
};

}  // namespace mllama::kernels

#include <mllama/kernels/reference/attention.hpp>
#include <mllama/kernels/isa/attention.hpp>

namespace mllama::kernels {

/// `out = softmax(q kᵀ / √head_dim) v` per head, over the visible keys, with a running maximum and sum: the score matrix is never
/// formed. Grouped queries share a key/value head.
/// Shapes:  q, out (rows, heads · head_dim);  blocks: each (count, kv_heads · head_dim) for keys and values
/// Source:  Vaswani et al. 2017; Ainslie et al. 2023 (arXiv:2305.13245); Dao et al. 2022 (arXiv:2205.14135)
template <class Ctx>
void attention(Ctx& ctx, const Heads& heads, Matrix<const float> q, std::span<const KeyBlock> blocks, const Visibility& visible,
               Matrix<float> out) {
  if (q.rows == 0) return;
  attention_body(typename Ctx::backend{}, ctx, heads, q, blocks, visible, out);
}

}  // namespace mllama::kernels
