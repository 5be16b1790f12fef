// SPDX-License-Identifier: MIT
#pragma once

#include <mllama/models/mllama/mllama.hpp>
#include <mllama/models/mllama/siglip.hpp>

/// SigLIP so400m looks at one picture of 384 pixels, without tiles; two layers take what it sees to a base model's text.
struct SiglipSo400M : mllama::SiglipConfig {
  static constexpr int image = 384, patch = 14, hidden = 1152, inner = 4304, heads = 16, layers = 27;
};
template <class Base, class Vision = SiglipSo400M>
struct SiglipTower : mllama::Mllama<Vision, typename Base::Text> {};
