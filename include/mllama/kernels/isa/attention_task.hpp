// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>

#include <mllama/core/context.hpp>
#include <mllama/core/tensor.hpp>
#include <mllama/kernels/isa/shape.hpp>
#include <mllama/kernels/keys.hpp>

/// What the bodies of attention share that does not depend on the instruction set.

namespace mllama::kernels::isa {

/// One step of the running maximum; tiles start at multiples of this in their block.
inline constexpr std::size_t tile_keys = 64;
/// Keys whose sum is computed at once, where there is a single row: they start at multiples of this in their block. So many rows of
/// keys and of values lie in fewer pages than a processor remembers.
inline constexpr std::size_t slice_keys = 256;

/// Rows from which on attention is computed in words, unless it is asked for in float32: as many as make products of integers tiles.
inline constexpr std::size_t fewest_word_rows = 9;

[[nodiscard]] inline bool overlap(std::span<const KeyRange> a, std::span<const KeyRange> b) noexcept {
  for (const KeyRange& one : a) {
    for (const KeyRange& other : b) {
      if (one.block == other.block && std::max(one.begin, other.begin) < std::min(one.end, other.end)) return true;
    }
  }
  return false;
}

/// Attention of the queries of one key/value head. Query q is head `q % group` of those that share it, in row `q / group`.
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
  /// What scores are multiplied by.
  [[nodiscard]] float scale() const noexcept { return 1 / std::sqrt(static_cast<float>(heads.head_dim)); }

  /// Whether the rows of the queries [first, first + count) see any of these keys.
  [[nodiscard]] bool sees_any(std::size_t first, std::size_t count, const KeyRange& range) const noexcept {
    for (std::size_t r = row(first); r <= row(first + count - 1); ++r) {
      if (overlap(visible.of_row(r), {&range, 1})) return true;
    }
    return false;
  }

  /// The end of the queries from `first` to `last` that are computed together: those that see some key in common with the first.
  [[nodiscard]] std::size_t end_of_common(std::size_t first, std::size_t last) const noexcept {
    const auto set = visible.of_row(row(first));
    std::size_t next = std::min((row(first) + 1) * group(), last);
    while (next < last &&
           (visible.set_of_row[row(next)] == visible.set_of_row[row(first)] || overlap(set, visible.of_row(row(next))))) {
      next = std::min(next + group(), last);
    }
    return next;
  }

  /// The first tile of keys at or after (block, key) of which any of the rows sees something: its visible part. Empty: there is
  /// none.
  template <std::uint32_t tile = tile_keys>
  [[nodiscard]] KeyRange next_keys(std::size_t first_row, std::size_t last_row, std::uint32_t block,
                                   std::uint32_t key) const noexcept {
    constexpr std::uint32_t none = std::numeric_limits<std::uint32_t>::max();
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

/// Calls `hide(i)` for each key `i` of a tile that a row does not see.
template <class Hide>
void each_hidden(const KeyRange& tile, std::span<const KeyRange> seen, Hide&& hide) {
  for (std::uint32_t key = tile.begin; key < tile.end;) {
    const auto part = std::find_if(seen.begin(), seen.end(), [&](const KeyRange& range) {
      return range.block == tile.block && range.begin <= key && key < range.end;
    });
    if (part != seen.end()) {
      key = part->end;
    } else {
      hide(std::size_t{key++ - tile.begin});
    }
  }
}

/// Asks for rows of some heads, which are short pieces far apart that processors do not foresee: to the cache of that level, or a higher one.
template <int level = 1>
inline void prefetch_rows(const KeyRows& of, const KeyShape& shape, std::size_t head, std::size_t heads, std::size_t first,
                          std::size_t rows) {
  constexpr std::size_t line = 64;
  const std::size_t width = element_bytes(of.format), stride = shape.width() * width, bytes = heads * shape.dim * width;
  const std::byte* row = of.as<std::byte>() + first * stride + head * shape.dim * width;
  for (std::size_t r = 0; r < rows; ++r, row += stride) {
    for (std::size_t i = 0; i < bytes; i += line) __builtin_prefetch(row + i, 0, 4 - level);
  }
}

/// Asks for share `part` of `parts` of the keys and values that are used next.
inline void prefetch_keys(const AttentionTask& task, const KeyRange& next, std::size_t part, std::size_t parts) {
  const std::size_t keys = next.end - next.begin, begin = keys * part / parts, end = keys * (part + 1) / parts;
  for (const KeyRows* const rows : {&task.blocks[next.block].keys, &task.blocks[next.block].values}) {
    prefetch_rows<2>(*rows, task.heads.keys(), task.kv_head, 1, next.begin + begin, end - begin);
  }
}

/// What was found for one query in some of the keys is kept in a row: sums of values by weights relative to the largest score, then the
/// sum of weights and that score.
[[nodiscard]] inline std::size_t partial_floats(std::size_t dim) noexcept { return (dim + 2 + 15) / 16 * 16; }

/// Adds `count` partial sums, `stride` apart, in their order.
inline void merge(const float* partials, std::size_t stride, std::size_t count, std::size_t dim, float* out) {
  float most = -std::numeric_limits<float>::infinity(), total = 0;
  for (std::size_t i = 0; i < count; ++i) most = std::max(most, partials[i * stride + dim + 1]);
  most = std::max(most, std::numeric_limits<float>::lowest());  // infinity less infinity is not a number
  std::fill_n(out, dim, 0.0F);
  for (std::size_t i = 0; i < count; ++i, partials += stride) {
    const float factor = std::exp(partials[dim + 1] - most);
    total += partials[dim] * factor;
    for (std::size_t k = 0; k < dim; ++k) out[k] += partials[k] * factor;
  }
  const float inverse = total == 0 ? 0.0F : 1 / total;
  for (std::size_t k = 0; k < dim; ++k) out[k] *= inverse;
}

/// Attention's body, for one instruction set. What drives it is compiled once for all of them.
struct AttentionBody {
  std::size_t lanes;  ///< queries of many rows that share a tile of keys, or fewer
  /// Floats of scratch memory for each thread, for so many queries; 0: of a single row.
  std::size_t (*scratch)(const Heads& heads, std::size_t queries);
  /// Queries [first, first + count).
  void (*queries)(const AttentionTask& task, std::size_t first, std::size_t count, float* scratch);
  /// A row's queries of some key/value heads, from that of the task on, over some keys: to their partial sums, which lie one after the
  /// other.
  void (*keys)(const AttentionTask& task, std::size_t kv_heads, const KeyRange& range, float* scratch, float* partials);
};

/// Tiles of queries. A row's result depends neither on the number of threads nor on the other rows.
template <class Ctx>
void attend_rows(Ctx& ctx, const AttentionBody& body, const Heads& heads, Matrix<const float> q, std::span<const KeyBlock> blocks,
                 const Visibility& visible, Matrix<float> out) {
  const std::size_t queries = q.rows * (heads.heads / heads.kv_heads), threads = ctx.threads().size();
  constexpr std::size_t fewest = 128, parts = 4;  // of a tile, if threads would have less to do
  std::size_t lanes = body.lanes;
  while (lanes > fewest && (queries + lanes - 1) / lanes * heads.kv_heads < parts * threads) lanes /= 2;
  const std::size_t tiles = (queries + lanes - 1) / lanes;
  auto scratch = ctx.template tensor<float, Rows, Rows>({threads, body.scratch(heads, std::min(lanes, queries))});
  // Head-major, so that the long rows of a causal mask are spread over the threads.
  ctx.parallel(tiles * heads.kv_heads, 1, [&](std::size_t begin, std::size_t end, unsigned worker) {
    for (std::size_t index = begin; index < end; ++index) {
      const AttentionTask task{heads, q, blocks, visible, out, index / tiles};
      const std::size_t last = std::min((index % tiles + 1) * lanes, queries);
      for (std::size_t first = index % tiles * lanes; first < last;) {
        const std::size_t next = task.end_of_common(first, last);
        body.queries(task, first, next - first, scratch[worker].data());
        first = next;
      }
    }
  });
}

/// A single row, as in decoding: its keys are cut into slices, wherever they are many or few, so that all threads have some. The sums
/// of slices are added in their order: the result does not depend on the number of threads.
template <class Ctx>
void attend_row(Ctx& ctx, const AttentionBody& body, const Heads& heads, Matrix<const float> q, std::span<const KeyBlock> blocks,
                const Visibility& visible, Matrix<float> out) {
  const std::size_t dim = heads.head_dim, group = heads.heads / heads.kv_heads, floats = partial_floats(dim);
  constexpr std::uint32_t slice = slice_keys;
  std::size_t count = 0;
  for (const KeyRange& range : visible.of_row(0)) {
    if (range.begin < range.end) count += (range.end - 1) / slice - range.begin / slice + 1;
  }
  auto slices = ctx.template tensor<KeyRange, Rows>({count});
  auto partials = ctx.template tensor<float, Rows, Rows>({count * heads.heads, floats});
  auto scratch = ctx.template tensor<float, Rows, Rows>({ctx.threads().size(), body.scratch(heads, 0)});
  KeyRange* next = slices.data();
  for (const KeyRange& range : visible.of_row(0)) {
    for (std::uint32_t begin = range.begin; begin < range.end;) {
      const std::uint32_t end = std::min(range.end - begin, slice - begin % slice) + begin;
      *next++ = {range.block, begin, end};
      begin = end;
    }
  }
  // All heads of a slice together, as they lie, but where a thread's part ends.
  ctx.parallel(count * heads.kv_heads, 1, [&](std::size_t begin, std::size_t end, unsigned worker) {
    while (begin < end) {
      const std::size_t index = begin / heads.kv_heads, head = begin % heads.kv_heads;
      const std::size_t some = std::min(end - begin, heads.kv_heads - head);
      const AttentionTask task{heads, q, blocks, visible, out, head};
      body.keys(task, some, slices.data()[index], scratch[worker].data(), partials.data() + begin * group * floats);
      begin += some;
    }
  });
  // Few are merged sooner than another thread is woken.
  ctx.parallel(heads.heads, 65536 / (count * dim + 1) + 1, [&](std::size_t begin, std::size_t end, unsigned) {
    for (std::size_t h = begin; h < end; ++h) {
      merge(partials.data() + h * floats, heads.heads * floats, count, dim, out[0] + h * dim);
    }
  });
}

template <class Ctx>
void attend(Ctx& ctx, const AttentionBody& body, const Heads& heads, Matrix<const float> q, std::span<const KeyBlock> blocks,
            const Visibility& visible, Matrix<float> out) {
  if (q.rows == 1) {
    attend_row(ctx, body, heads, q, blocks, visible, out);
  } else {
    attend_rows(ctx, body, heads, q, blocks, visible, out);
  }
}

}  // namespace mllama::kernels::isa
