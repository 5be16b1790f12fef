// SPDX-License-Identifier: MIT
#pragma once

#include <string_view>

#include <mllama/core/context.hpp>
#include <mllama/kernels/activation.hpp>
#include <mllama/layers/linear.hpp>
#include <mllama/layers/mlp.hpp>
#include <mllama/models/mllama/vision.hpp>

/// From vision states to what text attends to. A projector has `inputs` and `outputs`, its two widths, and `into`.

namespace mllama {

/// One linear layer: Mllama's.
template <class VisionC, class TextC>
struct Projector : Linear<typename VisionC::weights, VisionShape<VisionC>::output, TextC::hidden, true> {};

/// Two linear layers with an activation between them: `linear_2(act(linear_1(x)))`.
/// Shapes:  states (image tokens, vision output) -> (image tokens, text hidden)
/// Source:  Liu et al. 2023, LLaVA 1.5 (arXiv:2310.03744);  transformers' LlavaMultiModalProjector
template <class VisionC, class TextC, ActivationFunction A = GELU>
struct TwoLayerProjector {
  static constexpr std::string_view class_name = "LlavaMultiModalProjector";
  static constexpr int inputs = VisionShape<VisionC>::output, outputs = TextC::hidden;
  Linear<typename VisionC::weights, inputs, outputs, true> linear_1{};
  Activation<A> act{};
  Linear<typename VisionC::weights, outputs, outputs, true> linear_2{};

  static constexpr void visit(auto& self, auto&& member) {
    member("linear_1", self.linear_1);
    member("act", self.act);
    member("linear_2", self.linear_2);
  }

  template <class X, class Ctx>
  void into(const X& states, View<float, row_axis<X>, Dim<outputs>> projected, Ctx& ctx) const {
    auto inner = linear_1(states, ctx);
    kernels::activate<A>(ctx, inner);
    linear_2.into(inner, projected, ctx);
  }
};

}  // namespace mllama
