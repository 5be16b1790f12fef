// SPDX-License-Identifier: MIT
#pragma once

#include <mllama/models/mllama/mllama.hpp>

/// Vision states reach the text through two linear layers with a GELU between them, as in LLaVA 1.5 (arXiv:2310.03744).
template <class Base>
struct LlavaProjectorVision : Base::Vision {
  template <class VisionC, class TextC>
  using projector = mllama::TwoLayerProjector<VisionC, TextC>;
};
template <class Base>
struct LlavaProjector : mllama::Mllama<LlavaProjectorVision<Base>, typename Base::Text> {};
