// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include <mllama/core/context.hpp>
#include <mllama/core/format.hpp>

namespace mllama::kernels {

/// Rows of a stored table, decoded to float32. Ids must lie in the table; the API's door checks them.
/// Shapes:  ids (rows);  table (vocabulary, n);  out (rows, n)
/// Costs:   reads `n` stored elements per row
template <class Ctx, WeightFormat F>
void embed(Ctx& ctx, std::span<const std::int32_t> ids, const Weights<F>& table, Matrix<float> out) {
  with_format(table, [&](const auto& weights) {
    ctx.parallel(ids.size(), 1, [&](std::size_t begin, std::size_t end, unsigned) {
      for (std::size_t r = begin; r < end; ++r) weights.decode(static_cast<std::size_t>(ids[r]) * weights.columns, out.row(r));
    });
  });
}

/// Adds `scale ·` the decoded elements [first, first + x.size()) of a stored table to x: position and tile tables.
template <class Ctx, WeightFormat F>
void add_scaled(Ctx& ctx, const Weights<F>& table, std::size_t first, float scale, std::span<float> x) {
  with_format(table, [&](const auto& weights) {
    ctx.parallel(x.size(), 1024, [&](std::size_t begin, std::size_t end, unsigned) {
      float decoded[256];
      for (std::size_t i = begin; i < end; i += std::size(decoded)) {
        const std::span<float> some(decoded, std::min(std::size(decoded), end - i));
        weights.decode(first + i, some);
        for (std::size_t j = 0; j < some.size(); ++j) x[i + j] += scale * some[j];
      }
    });
  });
}

}  // namespace mllama::kernels
