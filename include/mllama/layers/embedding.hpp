// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include <mllama/core/context.hpp>
#include <mllama/core/visit.hpp>
#include <mllama/kernels/embedding.hpp>

namespace mllama {

/// Table of learned vectors, read by index.
/// Shapes:  ids (rows) -> (rows, N);  weight (Count, N).   Ids lie in [0, Count); the API's door checks them.
/// Source:  torch.nn.Embedding;  key: *.weight
template <int Count, int N, WeightFormat Format = StoredFloat>
struct Embedding {
  Parameter<Format, Count, N> weight{};
  int padding_index = -1;  ///< only printed; the row is used as it is

  static constexpr void visit(auto& self, auto&& member) { member("weight", self.weight); }
  static std::string repr(const auto& self) {
    return concat("Embedding(", Count, ", ", N,
                  self.padding_index < 0 ? std::string() : concat(", padding_idx=", self.padding_index), ")");
  }

  template <RunTimeAxis Row, class Ctx>
  [[nodiscard]] Tensor<float, Row, Dim<N>> rows(std::span<const std::int32_t> ids, Ctx& ctx) const {
    auto y = ctx.template tensor<float, Row, Dim<N>>({ids.size()});
    kernels::embed(ctx, ids, weight.weights, y);
    return y;
  }

  /// `x += scale ·` (elements [first, first + x.size()) of row `index`).
  template <class Ctx>
  void add_to(std::span<float> x, std::size_t index, std::size_t first, float scale, Ctx& ctx) const {
    kernels::add_scaled(ctx, weight.weights, index * static_cast<std::size_t>(N) + first, scale, x);
  }
};

}  // namespace mllama
