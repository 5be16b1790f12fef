// SPDX-License-Identifier: MIT
#pragma once

#include <mllama/models/mllama/mllama.hpp>

/// Text sees itself and the `Window - 1` positions before it; pictures stay visible to all text. Mistral's rule.
template <class Base, int Window>
struct WindowText : Base::Text {
  static constexpr int window = Window;
};
template <class Base, int Window>
struct SlidingWindow : mllama::Mllama<typename Base::Vision, WindowText<Base, Window>> {};
