// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>

#include <mllama/kernels/attention.hpp>
#include <mllama/kernels/simd/batch.hpp>

#if MLLAMA_HAS_XSIMD
namespace mllama::kernels {

namespace detail {

/// A lane is one query: one head of one row. Everything is vertical: keys and values are read where they lie and broadcast, no
/// sum runs across lanes, and a lane's result does not depend on the others.
struct AttentionTile {
  static constexpr std::size_t vectors = 4;  ///< of lanes
  static constexpr std::size_t keys = 64;    ///< one step of the running maximum; tiles start at multiples of this in their block
};

/// `scores[j][lane] = Σ_i keys[j][i] · queries[i][lane]` for `Keys` keys.
template <class B, std::size_t Keys, std::size_t Vectors>
void score_keys(const float* keys, std::size_t stride, const float* queries, std::size_t dim, float* scores) {
  constexpr std::size_t lanes = Vectors * B::size;
  B sums[Keys][Vectors];
  unroll<Keys>([&](auto j) { unroll<Vectors>([&](auto v) { sums[j][v] = B(0.0F); }); });
  for (std::size_t i = 0; i < dim; ++i) {
    B query[Vectors];
    unroll<Vectors>([&](auto v) { query[v] = held(B::load_aligned(queries + i * lanes + v * B::size)); });
    unroll<Keys>([&](auto j) {
      const B key(keys[j * stride + i]);
      unroll<Vectors>([&](auto v) { sums[j][v] = xsimd::fma(key, query[v], sums[j][v]); });
    });
  }
  unroll<Keys>([&](auto j) { unroll<Vectors>([&](auto v) { sums[j][v].store_aligned(scores + j * lanes + v * B::size); }); });
}

/// `out[i][lane] = out[i][lane] · factor[lane] + Σ_j weights[j][lane] · values[j][i]` for `Elements` elements i.
template <class B, std::size_t Elements, std::size_t Vectors>
void add_values(const float* values, std::size_t stride, std::size_t count, const float* weights, const float* factor, float* out) {
  constexpr std::size_t lanes = Vectors * B::size;
  B sums[Elements][Vectors];
  unroll<Elements>([&](auto i) {
    unroll<Vectors>(
        [&](auto v) { sums[i][v] = B::load_aligned(out + i * lanes + v * B::size) * B::load_aligned(factor + v * B::size); });
  });
  for (std::size_t j = 0; j < count; ++j) {
    B weight[Vectors];
    unroll<Vectors>([&](auto v) { weight[v] = held(B::load_aligned(weights + j * lanes + v * B::size)); });
    unroll<Elements>([&](auto i) {
      const B value(values[j * stride + i]);
      unroll<Vectors>([&](auto v) { sums[i][v] = xsimd::fma(value, weight[v], sums[i][v]); });
    });
  }
  unroll<Elements>([&](auto i) { unroll<Vectors>([&](auto v) { sums[i][v].store_aligned(out + i * lanes + v * B::size); }); });
}

/// Floats that one worker needs beside its stack.
template <class B>
[[nodiscard]] constexpr std::size_t attention_scratch(std::size_t dim) {
  return (2 * dim + AttentionTile::keys + 3) * AttentionTile::vectors * B::size;
}

/// The keys [begin, end) of a block; begin == end: none.
[[nodiscard]] inline bool overlap(std::span<const KeyRange> a, std::span<const KeyRange> b) noexcept {
  for (const KeyRange& one : a) {
    for (const KeyRange& other : b) {
      if (one.block == other.block && std::max(one.begin, other.begin) < std::min(one.end, other.end)) return true;
    }
  }
  return false;
}

/// What the lanes of a task share. Lane l is head `first_head + q % group` of row q / group, q = first + l.
struct AttentionTask {
  const Heads& heads;
  Matrix<const float> q;
  std::span<const KeyBlock> blocks;
  const Visibility& visible;
  Matrix<float> out;
  std::size_t kv_head;

  [[nodiscard]] std::size_t group() const noexcept { return heads.heads / heads.kv_heads; }
  [[nodiscard]] std::size_t row(std::size_t query) const noexcept { return query / group(); }
  [[nodiscard]] std::size_t column(std::size_t query) const noexcept {
    return (kv_head * group() + query % group()) * heads.head_dim;
  }

  /// The first tile of keys at or after (block, key) of which any of the rows sees something: its visible part. Empty: there is
  /// none.
  [[nodiscard]] KeyRange next_keys(std::size_t first_row, std::size_t last_row, std::uint32_t block,
                                   std::uint32_t key) const noexcept {
    constexpr std::uint32_t tile = AttentionTile::keys, none = std::numeric_limits<std::uint32_t>::max();
    KeyRange found{none, none, none};
    const auto each = [&](auto&& use) {
      for (std::size_t r = first_row; r <= last_row; ++r) {
        if (r != first_row && visible.set_of_row[r] == visible.set_of_row[r - 1]) continue;
        for (const KeyRange& range : visible.of_row(r)) {
          if (range.begin < range.end) use(range);
        }
      }
    };
    each([&](const KeyRange& range) {
      const std::uint32_t begin = range.block == block ? std::max(range.begin, key) : range.begin;
      if (range.block < block || begin >= range.end) return;
      if (range.block < found.block || (range.block == found.block && begin < found.begin)) found = {range.block, begin, begin};
    });
    if (found.block == none) return {};
    const std::uint32_t first = found.begin / tile * tile;
    each([&](const KeyRange& range) {
      const bool inside = range.block == found.block && range.begin < first + tile && range.end > found.begin;
      if (inside) found.end = std::max(found.end, std::min(range.end, first + tile));
    });
    return found;
  }
};

/// Attention of the queries [first, first + count), at most `Vectors` vectors of them.
template <class B, std::size_t Vectors>
void attend(const AttentionTask& task, std::size_t first, std::size_t count, float* scratch) {
  constexpr std::size_t lanes = Vectors * B::size;
  constexpr float hidden = -std::numeric_limits<float>::infinity();
  const std::size_t dim = task.heads.head_dim, stride = task.heads.kv_heads * dim;
  const std::size_t first_row = task.row(first), last_row = task.row(first + count - 1);
  float* const queries = scratch;                            // (dim, lanes)
  float* const out = queries + dim * lanes;                  // (dim, lanes)
  float* const scores = out + dim * lanes;                   // (keys, lanes)
  float* const most = scores + AttentionTile::keys * lanes;  // (lanes)
  float* const total = most + lanes;                         // (lanes)
  float* const factor = total + lanes;                       // (lanes)

  const float scale = 1 / std::sqrt(static_cast<float>(dim));
  std::fill_n(queries, dim * lanes, 0.0F);
  for (std::size_t l = 0; l < count; ++l) {
    const float* const query = task.q[task.row(first + l)] + task.column(first + l);
    for (std::size_t i = 0; i < dim; ++i) queries[i * lanes + l] = query[i] * scale;
  }
  std::fill_n(out, dim * lanes, 0.0F);
  std::fill_n(total, lanes, 0.0F);
  std::fill_n(most, lanes, hidden);

  KeyRange range = task.next_keys(first_row, last_row, 0, 0);
  for (; range.begin < range.end; range = task.next_keys(first_row, last_row, range.block, range.end)) {
    const KeyBlock& block = task.blocks[range.block];
    const std::size_t keys = range.end - range.begin, offset = range.begin * stride + task.kv_head * dim;
    std::size_t j = 0;
    for (; j + 4 <= keys; j += 4)
      score_keys<B, 4, Vectors>(block.keys + offset + j * stride, stride, queries, dim, scores + j * lanes);
    for (; j < keys; ++j) score_keys<B, 1, Vectors>(block.keys + offset + j * stride, stride, queries, dim, scores + j * lanes);

    for (std::size_t l = 0; l < count;) {  // what a row does not see
      const std::size_t row = task.row(first + l);
      const std::size_t same = std::min((row + 1) * task.group() - first, count);  // lanes of this row end here
      std::size_t seen = 0;
      for (const KeyRange& part : task.visible.of_row(row)) {
        if (part.block == range.block && part.begin <= range.begin && part.end >= range.end) seen = keys;
      }
      if (seen != keys) {
        for (std::size_t key = 0; key < keys; ++key) {
          bool is_seen = false;
          for (const KeyRange& part : task.visible.of_row(row)) {
            is_seen = is_seen || (part.block == range.block && part.begin <= range.begin + key && range.begin + key < part.end);
          }
          if (!is_seen) std::fill(scores + key * lanes + l, scores + key * lanes + same, hidden);
        }
      }
      l = same;
    }

    unroll<Vectors>([&](auto v) {
      float* const here = scores + v * B::size;
      const B before = B::load_aligned(most + v * B::size);
      B now = before;
      for (std::size_t key = 0; key < keys; ++key) now = xsimd::max(now, B::load_aligned(here + key * lanes));
      now.store_aligned(most + v * B::size);
      // A lane that has seen nothing yet would subtract infinity from infinity.
      const B subtracted = xsimd::select(now == B(hidden), B(0.0F), now);
      const B correction = xsimd::exp(before - subtracted);
      B sum(0.0F);
      for (std::size_t key = 0; key < keys; ++key) {
        const B weight = xsimd::exp(B::load_aligned(here + key * lanes) - subtracted);
        weight.store_aligned(here + key * lanes);
        sum += weight;
      }
      correction.store_aligned(factor + v * B::size);
      xsimd::fma(B::load_aligned(total + v * B::size), correction, sum).store_aligned(total + v * B::size);
    });

    std::size_t i = 0;
    for (; i + 4 <= dim; i += 4)
      add_values<B, 4, Vectors>(block.values + offset + i, stride, keys, scores, factor, out + i * lanes);
    for (; i < dim; ++i) add_values<B, 1, Vectors>(block.values + offset + i, stride, keys, scores, factor, out + i * lanes);
  }

  for (std::size_t l = 0; l < count; ++l) {
    float* const to = task.out[task.row(first + l)] + task.column(first + l);
    const float inverse = total[l] == 0 ? 0.0F : 1 / total[l];
    for (std::size_t i = 0; i < dim; ++i) to[i] = out[i * lanes + l] * inverse;
  }
}

}  // namespace detail

/// Queries in the lanes of vectors, keys in tiles that start at fixed positions: a row's result depends neither on the number of
/// threads nor on the other rows. Rows are taken together as long as they see some key in common.
/// Costs:   reads keys and values once per 4 vectors of queries (heads of a group count as queries)
template <detail::VectorArch Arch, class Compute, class Ctx>
void attention_body(cpu<Arch, Compute>, Ctx& ctx, const Heads& heads, Matrix<const float> q, std::span<const KeyBlock> blocks,
                    const Visibility& visible, Matrix<float> out) {
  using B = detail::FloatBatch<Arch>;
  constexpr std::size_t lanes = detail::AttentionTile::vectors * B::size;
  const std::size_t queries = q.rows * (heads.heads / heads.kv_heads), tiles = (queries + lanes - 1) / lanes;
  auto scratch = ctx.template tensor<float, Rows, Rows>({ctx.threads().size(), detail::attention_scratch<B>(heads.head_dim)});
  // Head-major, so that the long rows of a causal mask are spread over the threads.
  ctx.parallel(tiles * heads.kv_heads, 1, [&](std::size_t begin, std::size_t end, unsigned worker) {
    float* const memory = scratch[worker].data();
    for (std::size_t index = begin; index < end; ++index) {
      const detail::AttentionTask task{heads, q, blocks, visible, out, index / tiles};
      const std::size_t last = std::min((index % tiles + 1) * lanes, queries);
      for (std::size_t first = index % tiles * lanes; first < last;) {
        const auto set = visible.of_row(task.row(first));
        std::size_t next = std::min((task.row(first) + 1) * task.group(), last);
        while (next < last && (visible.set_of_row[task.row(next)] == visible.set_of_row[task.row(first)] ||
                               detail::overlap(set, visible.of_row(task.row(next))))) {
          next = std::min(next + task.group(), last);
        }
        const std::size_t count = next - first;
        if (count <= B::size) {
          detail::attend<B, 1>(task, first, count, memory);
        } else if (count <= 2 * B::size) {
          detail::attend<B, 2>(task, first, count, memory);
        } else {
          detail::attend<B, detail::AttentionTile::vectors>(task, first, count, memory);
        }
        first = next;
      }
    }
  });
}

}  // namespace mllama::kernels
#endif
