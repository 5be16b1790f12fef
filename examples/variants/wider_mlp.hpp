// SPDX-License-Identifier: MIT
#pragma once

#include <mllama/models/mllama/mllama.hpp>

/// Perceptrons `Factor` times as wide as those of a base model.
template <class Base, int Factor>
struct WiderText : Base::Text {
  static constexpr int inner = Factor * Base::Text::inner;
};
template <class Base, int Factor = 2>
struct WiderMLP : mllama::Mllama<typename Base::Vision, WiderText<Base, Factor>> {};
