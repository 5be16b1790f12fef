// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <string_view>

#include <mllama/core/context.hpp>
#include <mllama/core/tensor.hpp>
#include <mllama/kernels/attention_probabilities.hpp>

namespace mllama {

namespace detail {
/// Probabilities that are shown at a time, unless a single row has more: 8 MiB.
inline constexpr std::size_t shown_probabilities = std::size_t{1} << 21U;
}  // namespace detail

/// Computes attention probabilities and shows them to the observer, some rows at a time, if it wants them now. Layers ask before,
/// when they are compiled, whether it ever does: `if constexpr (Ctx::wants("self_attention")) show_attention<…>(…)`.
/// Shapes:  q (rows, HeadCount · head_dim) -> views (HeadCount, Row, Key), the keys of all blocks one block after the other;
///          Tap::first is `first` and up: the row of the batch
template <int HeadCount, class Row, class Key, class Ctx>
void show_attention(Ctx& ctx, std::string_view name, const kernels::Heads& heads, Matrix<const float> q,
                    std::span<const kernels::KeyBlock> blocks, const kernels::Visibility& visible, std::size_t first = 0) {
  if (q.rows == 0 || !ctx.wants_now(name)) return;
  const std::size_t keys = kernels::count_keys(blocks);
  const std::size_t most =
      std::clamp<std::size_t>(detail::shown_probabilities / (HeadCount * std::max<std::size_t>(keys, 1)), 1, q.rows);
  auto panel = ctx.template tensor<float, Dim<HeadCount>, Row, Key>({most, keys});
  for (std::size_t begin = 0; begin < q.rows; begin += most) {
    const std::size_t count = std::min(most, q.rows - begin);
    kernels::attention_probabilities(ctx, heads, {q[begin], count, q.width, q.stride}, blocks,
                                     {visible.set_of_row.subspan(begin, count), visible.first, visible.ranges}, panel.data());
    ctx.tap({.name = name, .first = first + begin}, View<const float, Dim<HeadCount>, Row, Key>(panel.data(), {count, keys}));
  }
}

}  // namespace mllama
