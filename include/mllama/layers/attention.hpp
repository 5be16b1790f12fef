// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <span>

#include <mllama/core/context.hpp>
#include <mllama/kernels/attention.hpp>
#include <mllama/kernels/rope.hpp>
#include <mllama/layers/linear.hpp>
#include <mllama/layers/show_attention.hpp>
#include <mllama/layers/visibility.hpp>

namespace mllama {

/// Attention of all rows to all rows of one sequence, with as many key/value heads as query heads, no positions and no biases.
/// Shapes:  x (rows, N), residual (rows, N).
/// Source:  Vaswani et al. 2017 (arXiv:1706.03762);  keys: *.{q,k,v,o}_proj.weight
template <WeightFormat Format, int N, int HeadCount>
struct MultiHeadAttention {
  static_assert(N % HeadCount == 0, "MultiHeadAttention<Format, N, HeadCount>: N must be a multiple of HeadCount");
  Linear<Format, N, N> q_proj{}, k_proj{}, v_proj{}, o_proj{};

  static constexpr void visit(auto& self, auto&& member) {
    member("q_proj", self.q_proj);
    member("k_proj", self.k_proj);
    member("v_proj", self.v_proj);
    member("o_proj", self.o_proj);
  }

  /// `visible` speaks of the rows of x, which are also the only key block.
  template <class X, class Ctx>
  void add(const X& x, const kernels::Visibility& visible, const Residual<row_axis<X>, N>& to, Ctx& ctx) const {
    const auto [q, k, v] = project(x, ctx, q_proj, k_proj, v_proj);
    auto mixed = ctx.template tensor<float, row_axis<X>, Dim<N>>({x.rows()});
    const kernels::KeyBlock block{k.data(), v.data(), x.rows()};
    kernels::attention(ctx, {HeadCount, HeadCount, N / HeadCount}, q, {&block, 1}, visible, mixed);
    if constexpr (Ctx::wants("vision_attention"))
      show_attention<HeadCount, row_axis<X>, row_axis<X>>(ctx, "vision_attention", {HeadCount, HeadCount, N / HeadCount}, q,
                                                          {&block, 1}, visible);
    o_proj.add(mixed, to, ctx);
  }
};

/// Rows of one sequence in a packed batch, and its keys and values so far in one layer.
struct CachedRows {
  std::size_t first = 0, count = 0;                      ///< rows of the batch
  std::size_t past = 0;                                  ///< positions that the cache holds
  kernels::KeptKeys *keys = nullptr, *values = nullptr;  ///< with room for past + count; keys after their rotation
};

/// Causal self-attention of packed sequences with rotary positions, grouped key/value heads and a cache.
/// Shapes:  x (tokens, N), angles (tokens, head_dim), residual (tokens, N).
/// Source:  Ainslie et al. 2023 (arXiv:2305.13245);  keys: *.{q,k,v,o}_proj.weight
template <WeightFormat Format, int N, int HeadCount, int KvHeadCount, int Window = 0>
struct SelfAttention {
  static_assert(N % HeadCount == 0, "SelfAttention<Format, N, HeadCount, KvHeadCount>: N must be a multiple of HeadCount");
  static_assert(HeadCount % KvHeadCount == 0,
                "SelfAttention<Format, N, HeadCount, KvHeadCount>: HeadCount must be a multiple of KvHeadCount");
  static constexpr int head_dim = N / HeadCount, kv_width = KvHeadCount * head_dim;

  Linear<Format, N, N> q_proj{};
  Linear<Format, N, kv_width> k_proj{}, v_proj{};
  Linear<Format, N, N> o_proj{};

  static constexpr void visit(auto& self, auto&& member) {
    member("q_proj", self.q_proj);
    member("k_proj", self.k_proj);
    member("v_proj", self.v_proj);
    member("o_proj", self.o_proj);
  }

  template <class X, class Ctx>
  void add(const X& x, View<const float, Tokens, Dim<head_dim>> angles, std::span<const CachedRows> sequences,
           const Residual<Tokens, N>& to, Ctx& ctx) const {
    auto [q, k, v] = project(x, ctx, q_proj, k_proj, v_proj);
    auto mixed = ctx.template tensor<float, Tokens, Dim<N>>({x.rows()});
    kernels::rope(ctx, angles, q);
    kernels::rope(ctx, angles, k);
    constexpr kernels::KeyShape shape{KvHeadCount, head_dim};
    for (const CachedRows& rows : sequences) {
      kernels::keep(ctx, *rows.keys, shape, rows.past, rows.count, k[rows.first].data());
      kernels::keep(ctx, *rows.values, shape, rows.past, rows.count, v[rows.first].data());
      const kernels::KeyBlock block{*rows.keys, *rows.values, rows.past + rows.count};
      const VisibilityTables visible = see_the_past(rows.past, rows.count, Window, ctx);
      kernels::attention(ctx, {HeadCount, KvHeadCount, head_dim}, q.view().slice(rows.first, rows.count), {&block, 1}, visible,
                         mixed.view().slice(rows.first, rows.count));
      if constexpr (Ctx::wants("self_attention"))
        show_attention<HeadCount, Tokens, Tokens>(ctx, "self_attention", {HeadCount, KvHeadCount, head_dim},
                                                  q.view().slice(rows.first, rows.count), {&block, 1}, visible, rows.first);
    }
    o_proj.add(mixed, to, ctx);
  }
};

}  // namespace mllama
