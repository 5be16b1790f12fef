// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <span>

#include <mllama/core/context.hpp>
#include <mllama/kernels/attention.hpp>
#include <mllama/layers/linear.hpp>
#include <mllama/layers/norm.hpp>
#include <mllama/layers/show_attention.hpp>
#include <mllama/layers/visibility.hpp>

namespace mllama {

/// Rows of one sequence in a packed batch, and what they see of the sequence's pictures. The sequences of a call cover all rows.
struct ImageRows {
  std::size_t first = 0, count = 0;           ///< rows of the batch
  std::span<const kernels::KeyBlock> images;  ///< keys and values of the pictures, of `CrossAttention::encode`
  kernels::Visibility visible;                ///< of these rows over those blocks
};

/// Attention of text rows to vision states, with grouped key/value heads; queries and keys are normalised per head. No positions,
/// no causality. Keys and values depend on the picture only, and are computed once for it.
/// Shapes:  x (tokens, N), vision states (image tokens, N), residual (tokens, N).
/// Source:  keys: *.{q,k,v,o}_proj.weight, *.{q,k}_norm.weight
template <WeightFormat Format, int N, int HeadCount, int KvHeadCount, template <int> class Norm = RMSNorm,
          WeightFormat KeyFormat = Format>
struct CrossAttention {
  static_assert(N % HeadCount == 0, "CrossAttention<Format, N, HeadCount, KvHeadCount>: N must be a multiple of HeadCount");
  static_assert(HeadCount % KvHeadCount == 0,
                "CrossAttention<Format, N, HeadCount, KvHeadCount>: HeadCount must be a multiple of KvHeadCount");
  static constexpr int head_dim = N / HeadCount, kv_width = KvHeadCount * head_dim;

  Linear<Format, N, N> q_proj{};
  Linear<KeyFormat, N, kv_width> k_proj{}, v_proj{};
  Linear<Format, N, N> o_proj{};
  Norm<head_dim> q_norm{}, k_norm{};

  static constexpr void visit(auto& self, auto&& member) {
    member("q_proj", self.q_proj);
    member("k_proj", self.k_proj);
    member("v_proj", self.v_proj);
    member("o_proj", self.o_proj);
    member("q_norm", self.q_norm);
    member("k_norm", self.k_norm);
  }

  /// Keys and values of a picture.
  /// Shapes:  states (image tokens, N) -> keys, values (image tokens, kv_heads · head_dim)
  template <class Ctx>
  void encode(View<const float, ImageTokens, Dim<N>> states, View<float, ImageTokens, Dim<kv_width>> keys,
              View<float, ImageTokens, Dim<kv_width>> values, Ctx& ctx) const {
    project_into(states, ctx, Projection{k_proj, keys}, Projection{v_proj, values});
    k_norm.each_head(keys, ctx);
    ctx.tap({"k_norm"}, keys);
    ctx.tap({"v_proj"}, values);
  }

  template <class X, class Ctx>
  void add(const X& x, std::span<const ImageRows> sequences, const Residual<Tokens, N>& to, Ctx& ctx) const {
    auto q = q_proj(x, ctx);
    q_norm.each_head(q, ctx);
    ctx.tap({"q_norm"}, q.view());
    auto mixed = ctx.template tensor<float, Tokens, Dim<N>>({x.rows()});
    for (const ImageRows& rows : sequences) {
      const auto out = mixed.view().slice(rows.first, rows.count);
      if (rows.images.empty()) {
        std::ranges::fill(out.flat(), 0.0F);
        continue;
      }
      kernels::attention(ctx, {HeadCount, KvHeadCount, head_dim}, q.view().slice(rows.first, rows.count), rows.images, rows.visible,
                         out);
      if constexpr (Ctx::wants("cross_attention"))
        show_attention<HeadCount, Tokens, ImageTokens>(ctx, "cross_attention", {HeadCount, KvHeadCount, head_dim},
                                                       q.view().slice(rows.first, rows.count), rows.images, rows.visible,
                                                       rows.first);
    }
    o_proj.add(mixed, to, ctx);
  }
};

}  // namespace mllama
