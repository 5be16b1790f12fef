// SPDX-License-Identifier: MIT
#pragma once

#include <mllama/models/mllama/adapted.hpp>

/// Adapters on cross-attention, and on nothing else. An adapter for other matrices is an error when it is added.
template <class Base>
struct AdaptedCrossText : Base::Text {
  using cross_weights = mllama::with_lora<mllama::cross_weights<typename Base::Text>>;
};
template <class Base>
struct LoRAOnCrossAttention : mllama::Mllama<typename Base::Vision, AdaptedCrossText<Base>> {};
