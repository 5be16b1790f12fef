// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

#include <mllama/core/tensor.hpp>
#include <mllama/layers/attention.hpp>
#include <mllama/layers/cross_attention.hpp>
#include <mllama/models/mllama/vision.hpp>

/// What a conversation keeps between forward passes: keys and values of its text, which grow, and of its pictures, which do not.

namespace mllama {

/// Order of the layers of the language model: which kind, and which one of that kind.
struct LayerSlot {
  bool cross = false;
  std::size_t index = 0;
};

/// Sizes that follow from a text configuration, and its layer schedule.
template <class C>
struct TextShape {
  static constexpr int head_dim = C::hidden / C::heads;
  static constexpr int kv_width = C::kv_heads * head_dim;
  static constexpr std::size_t cross_layers = C::cross.size();
  static constexpr std::size_t self_layers = static_cast<std::size_t>(C::layers) - cross_layers;

  static_assert(C::hidden % C::heads == 0, "TextConfig: hidden must be a multiple of heads");
  static_assert(C::heads % C::kv_heads == 0, "TextConfig: heads must be a multiple of kv_heads");
  // Names, because Clang prints the condition of an assertion, lambda and all, before its sentence.
  static constexpr bool cross_fits = std::all_of(C::cross.begin(), C::cross.end(), [](int i) { return 0 <= i && i < C::layers; });
  static constexpr bool cross_ascends =
      std::adjacent_find(C::cross.begin(), C::cross.end(), [](int a, int b) { return a >= b; }) == C::cross.end();
  static_assert(cross_fits, "TextConfig: cross lists positions in the stack of `layers` layers");
  static_assert(cross_ascends, "TextConfig: cross must ascend");

  static constexpr std::array<LayerSlot, C::layers> schedule = [] {
    std::array<LayerSlot, C::layers> slots{};
    std::size_t next_self = 0, next_cross = 0;
    for (std::size_t i = 0; i < slots.size(); ++i) {
      const bool cross = std::find(C::cross.begin(), C::cross.end(), static_cast<int>(i)) != C::cross.end();
      slots[i] = {cross, cross ? next_cross++ : next_self++};
    }
    return slots;
  }();
};

/// Keys (after their rotation) and values of one sequence's text in every self-attention layer.
template <class C>
class KeyValueCache {
 public:
  using Shape = TextShape<C>;

  /// Positions held.
  [[nodiscard]] std::size_t length() const noexcept { return length_; }
  [[nodiscard]] std::size_t capacity() const noexcept { return capacity_; }

  /// Makes room for `positions` in all. Amortised: at least doubles when it grows.
  void reserve(std::size_t positions) {
    if (positions <= capacity_) return;
    const std::size_t capacity = std::max(positions, 2 * capacity_);
    for (Layer& layer : layers_) {
      Layer grown{TokenRows({capacity}), TokenRows({capacity})};
      std::copy_n(layer.keys.data(), length_ * Shape::kv_width, grown.keys.data());
      std::copy_n(layer.values.data(), length_ * Shape::kv_width, grown.values.data());
      layer = std::move(grown);
    }
    capacity_ = capacity;
  }

  /// Forgets what lies beyond the first `positions`; the memory is kept.
  void truncate(std::size_t positions) noexcept { length_ = std::min(length_, positions); }
  /// Called by the model when all layers have stored `count` more positions.
  void advance(std::size_t count) noexcept { length_ += count; }

  [[nodiscard]] float* keys(std::size_t layer) noexcept { return layers_[layer].keys.data(); }
  [[nodiscard]] float* values(std::size_t layer) noexcept { return layers_[layer].values.data(); }

 private:
  using TokenRows = Tensor<float, Tokens, Dim<Shape::kv_width>>;
  struct Layer {
    TokenRows keys, values;
  };
  std::array<Layer, Shape::self_layers> layers_;
  std::size_t length_ = 0, capacity_ = 0;
};

/// A picture as the language model sees it: keys and values of every cross-attention layer, heads not repeated. Computed once per
/// picture; conversations share it.
template <class C>
struct EncodedImage {
  using Shape = TextShape<C>;
  struct Layer {
    Tensor<float, ImageTokens, Dim<Shape::kv_width>> keys, values;
  };
  std::array<Layer, Shape::cross_layers> layers;
  std::size_t tiles = 0;           ///< tiles with picture in them, which text may see
  std::size_t tile_positions = 0;  ///< vision states per tile

  [[nodiscard]] kernels::KeyBlock block(std::size_t layer) const noexcept {
    return {layers[layer].keys.data(), layers[layer].values.data(), layers[layer].keys.rows()};
  }
};

/// One sequence of a batch: its rows, its cache, its pictures and who sees them. Refers to memory of the caller.
template <class C>
struct TextSequence {
  std::size_t rows = 0;
  KeyValueCache<C>* cache = nullptr;                    ///< grows by `rows`
  std::span<const EncodedImage<C>* const> images = {};  ///< none: the rows pass cross-attention layers unchanged
  kernels::Visibility visible = {};                     ///< of the rows over `images`, if there are any
  std::span<const std::uint8_t> sees_image = {};        ///< (rows) 0 where a row may see none of them
};

}  // namespace mllama
