// SPDX-License-Identifier: MIT
#pragma once

#include <mllama/models/mllama/mllama.hpp>

/// The matrices that make keys and values of pictures have 8 bits; a file with others is an error when it is loaded.
template <class Base>
struct Int8CrossKeysText : Base::Text {
  using cross_key_weights = mllama::Int8;
};
template <class Base>
struct Int8CrossKeys : mllama::Mllama<typename Base::Vision, Int8CrossKeysText<Base>> {};
