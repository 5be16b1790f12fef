// SPDX-License-Identifier: MIT
#pragma once

#include <array>

#include <mllama/models/mllama/mllama.hpp>

/// Other layers of the stack attend to pictures: the last, or more of them, or two in a row.
template <class Base, int... Positions>
struct OtherCrossText : Base::Text {
  static constexpr std::array<int, sizeof...(Positions)> cross{Positions...};
};
template <class Base, int... Positions>
struct OtherCrossLayers : mllama::Mllama<typename Base::Vision, OtherCrossText<Base, Positions...>> {};
