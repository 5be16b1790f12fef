// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string_view>

#include <mllama/core/context.hpp>
#include <mllama/layers/linear.hpp>
#include <mllama/layers/mlp.hpp>

namespace mllama {

/// Gated perceptron under the names that it has inside of a mixture: `w2(act(w1(x)) ∘ w3(x))`.
/// Source:  keys: *.w1.weight, *.w2.weight, *.w3.weight
template <WeightFormat Format, int N, int Inner, ActivationFunction A = SiLU>
struct Expert {
  static constexpr std::string_view class_name = "MixtralBlockSparseTop2MLP";
  Linear<Format, N, Inner> w1{};
  Linear<Format, Inner, N> w2{};
  Linear<Format, N, Inner> w3{};
  Activation<A> act_fn{};

  static constexpr void visit(auto& self, auto&& member) {
    member("w1", self.w1);
    member("w2", self.w2);
    member("w3", self.w3);
    member("act_fn", self.act_fn);
  }

  /// Shapes:  x (rows, N) -> (rows, N)
  template <class X, class Ctx>
  [[nodiscard]] Tensor<float, row_axis<X>, Dim<N>> operator()(const X& x, Ctx& ctx) const {
    auto gate = w1(x, ctx);
    const auto up = w3(x, ctx);
    kernels::activate_and_multiply<A>(ctx, gate, up);
    return w2(gate, ctx);
  }
};

/// Mixture of gated perceptrons, added to a stream: each row goes to the `Top` experts that a linear layer scores highest, the first
/// of equals, and takes their results in proportion to the softmax of those scores.
/// Shapes:  x (rows, N), residual (rows, N).
/// Costs:   the experts that a row of the batch has chosen, each over its own rows; the others are not read.
/// Source:  Jiang et al. 2024 (arXiv:2401.04088);  keys: *.gate.weight, *.experts.0.w1.weight …
template <WeightFormat Format, int N, int Inner, int ExpertCount, int Top = 2, ActivationFunction A = SiLU>
struct MixtureOfExperts {
  static_assert(Top > 0, "MixtureOfExperts<Format, N, Inner, ExpertCount, Top>: a row takes at least one expert");
  static_assert(Top <= ExpertCount,
                "MixtureOfExperts<Format, N, Inner, ExpertCount, Top>: a row takes at most ExpertCount experts");
  static constexpr std::string_view class_name = "MixtralSparseMoeBlock";
  static constexpr int width = N, top = Top;
  static constexpr std::size_t count = static_cast<std::size_t>(ExpertCount);

  Linear<StoredFloat, N, ExpertCount> gate{};
  std::array<Expert<Format, N, Inner, A>, count> experts{};

  static constexpr void visit(auto& self, auto&& member) {
    member("gate", self.gate);
    member("experts", self.experts);
  }

  template <class X, class Ctx>
  void add(const X& x, const Residual<row_axis<X>, N>& to, Ctx& ctx) const {
    detail::for_row_panels(
        x, [&](std::size_t first, std::size_t rows) { add_panel(x.view().slice(first, rows), to.slice(first, rows), ctx); });
  }

 private:
  template <class X, class Ctx>
  void add_panel(const X& x, const Residual<row_axis<X>, N>& to, Ctx& ctx) const {
    using Row = row_axis<X>;
    auto shares = gate(x, ctx);
    for (std::size_t r = 0; r < x.rows(); ++r) keep_highest(shares[r]);
    auto chosen = ctx.template tensor<std::uint32_t, Rows>({x.rows()});
    for (std::size_t e = 0; e < count; ++e) {
      std::size_t taken = 0;
      for (std::size_t r = 0; r < x.rows(); ++r) {
        const bool is_added = to.rows.empty() || to.rows[r] != 0;
        if (is_added && shares[r][e] != 0) chosen.data()[taken++] = static_cast<std::uint32_t>(r);
      }
      if (taken == 0) continue;
      auto own = ctx.template tensor<float, Row, Dim<N>>({taken});
      for (std::size_t i = 0; i < taken; ++i) std::copy_n(x[chosen.data()[i]].data(), N, own[i].data());
      const auto result = experts[e](own, ctx);
      for (std::size_t i = 0; i < taken; ++i) {
        const std::size_t r = chosen.data()[i];
        const float scale = to.gate * shares[r][e];
        for (std::size_t j = 0; j < static_cast<std::size_t>(N); ++j) to.y[r][j] += scale * result[i][j];
      }
    }
  }

  /// Makes scores shares of 1; those that are not among the highest become 0.
  static void keep_highest(std::span<float> scores) {
    std::array<float, count> kept{};
    float highest = 0, sum = 0;
    for (int i = 0; i < Top; ++i) {
      const auto best = std::ranges::max_element(scores);
      if (i == 0) highest = *best;
      const float share = std::exp(*best - highest);
      kept[static_cast<std::size_t>(best - scores.begin())] = share;
      sum += share;
      *best = -std::numeric_limits<float>::infinity();
    }
    for (std::size_t e = 0; e < count; ++e) scores[e] = kept[e] / sum;
  }
};

}  // namespace mllama
