// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <string_view>

#include <mllama/models/mllama/mllama.hpp>

/// Llama 3.0 to 3.2 alone: Mllama's language model without a layer that attends to pictures, from a folder that transformers' Llama
/// was saved in. Sessions, chats and everything else take it as they take an Mllama saved without its vision model.

namespace mllama {

/// What Llama's configurations have in common. Those of 3.0 do not scale rotations; those of 3.1 have Mllama's scaling, and 3.2's
/// scale by 32.
struct LlamaConfig : TextConfig {
  static constexpr int extra_embeddings = 0, image_token = -1;
  static constexpr std::array<int, 0> cross{};
};

/// In the place of the vision model that is never loaded.
struct NoVision : VisionConfig {
  static constexpr int image = 14, tiles = 1, hidden = 1, inner = 1, heads = 1, layers = 0, global_layers = 0;
  static constexpr std::array<int, 0> intermediate{};
  static constexpr std::array aspect_ratios{TileGrid{1, 1}};
};

/// Source:  transformers' LlamaForCausalLM, with a head of its own or the embedding as one
template <class TextC>
struct Llama : Mllama<NoVision, TextC> {
  static constexpr std::string_view class_name = "LlamaForCausalLM";
  template <class, class OtherText>
  using with = Llama<OtherText>;

  static constexpr void visit(auto& self, auto&& member) { decltype(self.language_model)::visit(self.language_model, member); }
};

}  // namespace mllama
