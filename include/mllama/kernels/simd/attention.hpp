// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>

#include <mllama/kernels/attention.hpp>
#include <mllama/kernels/simd/batch.hpp>
#include <mllama/kernels/simd/decode.hpp>

#if MLLAMA_HAS_XSIMD
namespace mllama::kernels {

namespace detail {

/// A lane is one query: one head of one row. Everything is vertical: keys and values are read where they lie and broadcast, no
/// sum runs across lanes, and a lane's result does not depend on the others.
struct AttentionTile {
  static constexpr std::size_t vectors = 2;  ///< of lanes: their queries, scores and sums stay in the first-level cache
  static constexpr std::size_t parts = 4;    ///< times as many queries share a tile of keys
  static constexpr std::size_t keys = 64;    ///< one step of the running maximum; tiles start at multiples of this in their block
};
/// Keys, and elements of values, whose sums are in registers together.
template <class Arch>
inline constexpr std::size_t keys_in_registers = vector_registers<Arch> == 32 ? 12 : 6;
template <class Arch>
inline constexpr std::size_t values_in_registers = vector_registers<Arch> == 32 ? 10 : 6;

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

/// The rows [first, first + rows) of a head of keys or values side by side, in float32, which is nearer than where they lie: they are a
/// power of two apart more often than not, and fall into the same few sets of the first-level cache.
inline void gather_rows(const KeyRows& from, const KeyShape& shape, std::size_t head, std::size_t first, std::size_t rows,
                        float* to) {
  const std::size_t stride = shape.width(), dim = shape.dim, begin = first * stride + head * dim;
  const auto each = [&](const auto* row, auto&& decode) {
    row += begin;
    for (std::size_t r = 0; r < rows; ++r, row += stride, to += dim) decode(row, r);
  };
  switch (from.format) {
    case KeyFormat::f32:
      return each(from.as<float>(), [&](const float* row, std::size_t) { std::copy_n(row, dim, to); });
    case KeyFormat::bf16:
      return each(from.as<std::uint16_t>(), [&](const std::uint16_t* row, std::size_t) {
        decode_run(Weights<BF16>{row, 1, dim}, 0, dim, to);
      });
    case KeyFormat::f16:
      return each(from.as<std::uint16_t>(), [&](const std::uint16_t* row, std::size_t) {
        decode_run(Weights<F16>{row, 1, dim}, 0, dim, to);
      });
    case KeyFormat::int8:
      return each(from.as<std::int8_t>(), [&](const std::int8_t* row, std::size_t r) {
        const float scale = from.scales[(first + r) * shape.heads + head];
        for (std::size_t i = 0; i < dim; ++i) to[i] = static_cast<float>(row[i]) * scale;
      });
  }
}

/// Asks for the rows [first, first + rows) of a head, which are short pieces far apart that processors do not foresee.
inline void prefetch_rows(const KeyRows& of, const KeyShape& shape, std::size_t head, std::size_t first, std::size_t rows) {
  constexpr std::size_t line = 64;
  const std::size_t width = element_bytes(of.format), stride = shape.width() * width, bytes = shape.dim * width;
  const std::byte* row = of.as<std::byte>() + first * stride + head * bytes;
  for (std::size_t r = 0; r < rows; ++r, row += stride) {
    for (std::size_t i = 0; i < bytes; i += line) __builtin_prefetch(row + i);
  }
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

/// Queries in the lanes of `Vectors` vectors, and what has been found for them.
template <class Arch, std::size_t Vectors>
class AttentionPart {
 public:
  using B = FloatBatch<Arch>;
  static constexpr std::size_t lanes = Vectors * B::size;

  /// Floats of scratch memory.
  [[nodiscard]] static constexpr std::size_t floats(std::size_t dim) { return (2 * dim + AttentionTile::keys + 3) * lanes; }

  /// Takes the queries [first, first + count).
  AttentionPart(const AttentionTask& task, std::size_t first, std::size_t count, float* scratch)
      : task_(task), first_(first), count_(count), queries_(scratch) {
    const float scale = 1 / std::sqrt(static_cast<float>(dim_));
    std::fill_n(queries_, dim_ * lanes, 0.0F);
    for (std::size_t l = 0; l < count; ++l) {
      const float* const query = task.q[task.row(first + l)] + task.column(first + l);
      for (std::size_t i = 0; i < dim_; ++i) queries_[i * lanes + l] = query[i] * scale;
    }
    std::fill_n(out_, dim_ * lanes, 0.0F);
    std::fill_n(total_, lanes, 0.0F);
    std::fill_n(most_, lanes, hidden);
  }

  /// Adds a tile of keys and values, whose rows are the strides apart.
  void add(const KeyRange& range, const float* keys, std::size_t key_stride, const float* values, std::size_t value_stride) {
    const std::size_t count = range.end - range.begin;
    if (!sees_any(range)) return;
    score(keys, key_stride, count);
    hide(range);
    weigh(count);
    add_all_values(values, value_stride, count);
  }

  /// Stores what the queries have found.
  void finish() const {
    for (std::size_t l = 0; l < count_; ++l) {
      float* const to = task_.out[task_.row(first_ + l)] + task_.column(first_ + l);
      const float inverse = total_[l] == 0 ? 0.0F : 1 / total_[l];
      for (std::size_t i = 0; i < dim_; ++i) to[i] = out_[i * lanes + l] * inverse;
    }
  }

 private:
  static constexpr float hidden = -std::numeric_limits<float>::infinity();

  [[nodiscard]] bool sees_any(const KeyRange& range) const {
    for (std::size_t row = task_.row(first_); row <= task_.row(first_ + count_ - 1); ++row) {
      if (overlap(task_.visible.of_row(row), {&range, 1})) return true;
    }
    return false;
  }

  void score(const float* keys, std::size_t stride, std::size_t count) {
    constexpr std::size_t some = keys_in_registers<Arch>;
    std::size_t j = 0;
    for (; j + some <= count; j += some)
      score_keys<B, some, Vectors>(keys + j * stride, stride, queries_, dim_, scores_ + j * lanes);
    for (; j + 4 <= count; j += 4) score_keys<B, 4, Vectors>(keys + j * stride, stride, queries_, dim_, scores_ + j * lanes);
    for (; j < count; ++j) score_keys<B, 1, Vectors>(keys + j * stride, stride, queries_, dim_, scores_ + j * lanes);
  }

  /// Removes the scores of what a row does not see.
  void hide(const KeyRange& range) {
    for (std::size_t l = 0; l < count_;) {
      const std::size_t row = task_.row(first_ + l);
      const std::size_t same = std::min((row + 1) * task_.group() - first_, count_);  // lanes of this row end here
      const std::span<const KeyRange> seen = task_.visible.of_row(row);
      const bool all = std::any_of(seen.begin(), seen.end(), [&](const KeyRange& part) {
        return part.block == range.block && part.begin <= range.begin && part.end >= range.end;
      });
      for (std::uint32_t key = range.begin; !all && key < range.end; ++key) {
        const bool is_seen = std::any_of(seen.begin(), seen.end(), [&](const KeyRange& part) {
          return part.block == range.block && part.begin <= key && key < part.end;
        });
        float* const of_key = scores_ + (key - range.begin) * lanes;
        if (!is_seen) std::fill(of_key + l, of_key + same, hidden);
      }
      l = same;
    }
  }

  /// Makes weights of scores, relative to the largest score so far.
  void weigh(std::size_t count) {
    unroll<Vectors>([&](auto v) {
      float* const here = scores_ + v * B::size;
      const B before = B::load_aligned(most_ + v * B::size);
      B now = before;
      for (std::size_t key = 0; key < count; ++key) now = xsimd::max(now, B::load_aligned(here + key * lanes));
      now.store_aligned(most_ + v * B::size);
      // A lane that has seen nothing yet would subtract infinity from infinity.
      const B subtracted = xsimd::select(now == B(hidden), B(0.0F), now);
      const B correction = xsimd::exp(before - subtracted);
      B sum(0.0F);
      for (std::size_t key = 0; key < count; ++key) {
        const B weight = xsimd::exp(B::load_aligned(here + key * lanes) - subtracted);
        weight.store_aligned(here + key * lanes);
        sum += weight;
      }
      correction.store_aligned(factor_ + v * B::size);
      xsimd::fma(B::load_aligned(total_ + v * B::size), correction, sum).store_aligned(total_ + v * B::size);
    });
  }

  void add_all_values(const float* values, std::size_t stride, std::size_t count) {
    constexpr std::size_t some = values_in_registers<Arch>;
    std::size_t i = 0;
    for (; i + some <= dim_; i += some) add_values<B, some, Vectors>(values + i, stride, count, scores_, factor_, out_ + i * lanes);
    for (; i + 4 <= dim_; i += 4) add_values<B, 4, Vectors>(values + i, stride, count, scores_, factor_, out_ + i * lanes);
    for (; i < dim_; ++i) add_values<B, 1, Vectors>(values + i, stride, count, scores_, factor_, out_ + i * lanes);
  }

  const AttentionTask& task_;
  std::size_t first_, count_, dim_ = task_.heads.head_dim;
  float* queries_;                                       // (dim, lanes)
  float* out_ = queries_ + dim_ * lanes;                 // (dim, lanes)
  float* scores_ = out_ + dim_ * lanes;                  // (keys, lanes)
  float* most_ = scores_ + AttentionTile::keys * lanes;  // (lanes)
  float* total_ = most_ + lanes;                         // (lanes)
  float* factor_ = total_ + lanes;                       // (lanes)
};

/// Floats that one worker needs beside its stack: parts, a tile of keys and one of values.
template <class Arch>
[[nodiscard]] constexpr std::size_t attention_scratch(std::size_t dim) {
  return AttentionTile::parts * AttentionPart<Arch, AttentionTile::vectors>::floats(dim) + 2 * AttentionTile::keys * dim;
}

/// Attention of the queries [first, first + count), in up to `Parts` parts.
template <class Arch, std::size_t Vectors, std::size_t Parts>
void attend(const AttentionTask& task, std::size_t first, std::size_t count, float* scratch) {
  using Part = AttentionPart<Arch, Vectors>;
  const KeyShape shape = task.heads.keys();
  const std::size_t dim = shape.dim;
  std::array<std::optional<Part>, Parts> parts;
  for (std::size_t p = 0; p * Part::lanes < count; ++p) {
    parts[p].emplace(task, first + p * Part::lanes, std::min(Part::lanes, count - p * Part::lanes), scratch);
    scratch += Part::floats(dim);
  }
  const std::size_t first_row = task.row(first), last_row = task.row(first + count - 1);
  for (KeyRange range = task.next_keys(first_row, last_row, 0, 0); range.begin < range.end;
       range = task.next_keys(first_row, last_row, range.block, range.end)) {
    const KeyBlock& block = task.blocks[range.block];
    const std::size_t keys = range.end - range.begin;
    if constexpr (Vectors == 1) {
      prefetch_rows(block.values, shape, task.kv_head, range.begin, keys);
      const std::size_t ahead = std::min<std::size_t>(AttentionTile::keys, block.count - range.end);
      prefetch_rows(block.keys, shape, task.kv_head, range.end, ahead);
    }
    // A single vector of queries uses every number once: where it lies, if it can.
    const auto rows_of = [&](const KeyRows& rows, float* near) -> const float* {
      if (Vectors == 1 && rows.format == KeyFormat::f32) {
        return rows.as<float>() + range.begin * shape.width() + task.kv_head * dim;
      }
      gather_rows(rows, shape, task.kv_head, range.begin, keys, near);
      return near;
    };
    const float* const tile_keys = rows_of(block.keys, scratch);
    const float* const tile_values = rows_of(block.values, scratch + keys * dim);
    const std::size_t key_stride = tile_keys == scratch ? dim : shape.width();
    const std::size_t value_stride = tile_values == scratch + keys * dim ? dim : shape.width();
    for (auto& part : parts) {
      if (part) part->add(range, tile_keys, key_stride, tile_values, value_stride);
    }
  }
  for (const auto& part : parts) {
    if (part) part->finish();
  }
}

}  // namespace detail

/// Queries in the lanes of vectors, keys in tiles that start at fixed positions: a row's result depends neither on the number of
/// threads nor on the other rows. Rows are taken together as long as they see some key in common.
/// Costs:   reads keys and values once per 8 vectors of queries (heads of a group count as queries)
template <detail::VectorArch Arch, class Compute, class Ctx>
void attention_body(cpu<Arch, Compute>, Ctx& ctx, const Heads& heads, Matrix<const float> q, std::span<const KeyBlock> blocks,
                    const Visibility& visible, Matrix<float> out) {
  using B = detail::FloatBatch<Arch>;
  constexpr std::size_t vectors = detail::AttentionTile::vectors, parts = detail::AttentionTile::parts;
  constexpr std::size_t lanes = parts * vectors * B::size;
  const std::size_t queries = q.rows * (heads.heads / heads.kv_heads), tiles = (queries + lanes - 1) / lanes;
  auto scratch = ctx.template tensor<float, Rows, Rows>({ctx.threads().size(), detail::attention_scratch<Arch>(heads.head_dim)});
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
          detail::attend<Arch, 1, 1>(task, first, count, memory);
        } else {
          detail::attend<Arch, vectors, parts>(task, first, count, memory);
        }
        first = next;
      }
    }
  });
}

}  // namespace mllama::kernels
#endif
