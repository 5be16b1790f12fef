// SPDX-License-Identifier: MIT
#pragma once

#include <mllama/models/mllama/mllama.hpp>

/// Vision states reach the text through two linear layers with a GELU between them, as in LLaVA 1.5 (arXiv:2310.03744).
template <class V, class T>
struct GELUProjector {
  mllama::Linear<typename V::weights, mllama::VisionShape<V>::output, T::hidden, true> linear_1{};
  mllama::Linear<typename V::weights, T::hidden, T::hidden, true> linear_2{};
  static constexpr void visit(auto& self, auto&& member) { member("linear_1", self.linear_1), member("linear_2", self.linear_2); }
  void into(const auto& states, auto&& projected, auto& ctx) const {
    auto inner = linear_1(states, ctx);
    mllama::kernels::activate<mllama::GELU>(ctx, inner);
    linear_2.into(inner, projected, ctx);
  }
};
template <class Base>
struct TwoLayerVision : Base::Vision {
  template <class V, class T>
  using projector = GELUProjector<V, T>;
};
template <class Base>
struct TwoLayerProjector : mllama::Mllama<TwoLayerVision<Base>, typename Base::Text> {};
