// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <numeric>

#include <mllama/core/context.hpp>
#include <mllama/kernels/attention.hpp>

namespace mllama {

/// A visibility that owns its tables.
struct VisibilityTables {
  Tensor<std::uint32_t, Rows> set_of_row, first;
  Tensor<kernels::KeyRange, Rows> ranges;

  operator kernels::Visibility() const noexcept {  // NOLINT(google-explicit-constructor)
    return {set_of_row.flat(), first.flat(), ranges.flat()};
  }
};

/// Every row sees all keys of all blocks.
template <class Ctx>
[[nodiscard]] VisibilityTables see_everything(std::size_t rows, std::span<const kernels::KeyBlock> blocks, Ctx& ctx) {
  VisibilityTables tables{ctx.template tensor<std::uint32_t, Rows>({rows}), ctx.template tensor<std::uint32_t, Rows>({2}),
                          ctx.template tensor<kernels::KeyRange, Rows>({blocks.size()})};
  tables.set_of_row.fill(0);
  tables.first.data()[0] = 0;
  tables.first.data()[1] = static_cast<std::uint32_t>(blocks.size());
  for (std::size_t b = 0; b < blocks.size(); ++b) {
    tables.ranges.data()[b] = {static_cast<std::uint32_t>(b), 0, static_cast<std::uint32_t>(blocks[b].count)};
  }
  return tables;
}

/// Row r, at position `past + r` of a sequence, sees itself and the `window − 1` keys before it (window 0: all before it).
template <class Ctx>
[[nodiscard]] VisibilityTables see_the_past(std::size_t past, std::size_t rows, std::size_t window, Ctx& ctx) {
  VisibilityTables tables{ctx.template tensor<std::uint32_t, Rows>({rows}), ctx.template tensor<std::uint32_t, Rows>({rows + 1}),
                          ctx.template tensor<kernels::KeyRange, Rows>({rows})};
  std::iota(tables.set_of_row.data(), tables.set_of_row.data() + rows, 0U);
  std::iota(tables.first.data(), tables.first.data() + rows + 1, 0U);
  for (std::size_t r = 0; r < rows; ++r) {
    const std::size_t end = past + r + 1, begin = window == 0 || end <= window ? 0 : end - window;
    tables.ranges.data()[r] = {0, static_cast<std::uint32_t>(begin), static_cast<std::uint32_t>(end)};
  }
  return tables;
}

}  // namespace mllama
