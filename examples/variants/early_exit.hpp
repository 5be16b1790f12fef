// SPDX-License-Identifier: MIT
#pragma once

#include <mllama/models/mllama/mllama.hpp>

/// The head reads the states after the first `Layers` layers; the rest of the file is mapped, and never read. As in LayerSkip
/// (arXiv:2404.16710).
template <class Base, int Layers>
struct EarlyExitText : Base::Text {
  static constexpr int exit_after = Layers;
};
template <class Base, int Layers>
struct EarlyExit : mllama::Mllama<typename Base::Vision, EarlyExitText<Base, Layers>> {};
