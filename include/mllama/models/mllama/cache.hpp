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
  static constexpr kernels::KeyShape keys{C::kv_heads, head_dim};
  static constexpr std::size_t cross_layers = C::cross.size();
  static constexpr std::size_t self_layers = static_cast<std::size_t>(C::layers) - cross_layers;

  static constexpr std::size_t depth =
      static_cast<std::size_t>(C::exit_after > 0 ? C::exit_after : C::layers);  ///< layers computed

  static_assert(C::hidden % C::heads == 0, "TextConfig: hidden must be a multiple of heads");
  static_assert(C::kv_heads > 0, "TextConfig: kv_heads must be at least 1");
  static_assert(C::heads % C::kv_heads == 0, "TextConfig: heads must be a multiple of kv_heads");
  // Names, because Clang prints the condition of an assertion, lambda and all, before its sentence.
  static constexpr int lowest_cross = C::cross.empty() ? 0 : *std::min_element(C::cross.begin(), C::cross.end());
  static constexpr int highest_cross = C::cross.empty() ? 0 : *std::max_element(C::cross.begin(), C::cross.end());
  static constexpr bool cross_ascends =
      std::adjacent_find(C::cross.begin(), C::cross.end(), [](int a, int b) { return a >= b; }) == C::cross.end();
  static_assert(lowest_cross >= 0, "TextConfig: cross lists positions, the first being 0");
  static_assert(highest_cross < C::layers, "TextConfig: cross lists positions in the stack of `layers` layers");
  static_assert(cross_ascends, "TextConfig: cross must ascend");
  static_assert(C::exit_after >= 0, "TextConfig: exit_after counts layers, 0 being all");
  static_assert(C::exit_after <= C::layers, "TextConfig: exit_after counts layers of the stack of `layers`");
  static_assert(C::window >= 0, "TextConfig: window counts positions");

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

  explicit KeyValueCache(KeyFormat format = KeyFormat::f32, MemorySource& source = *std::pmr::new_delete_resource()) {
    for (Layer& layer : layers_) layer = {kernels::KeptKeys(format, source), kernels::KeptKeys(format, source)};
  }

  /// Positions held.
  [[nodiscard]] std::size_t length() const noexcept { return length_; }
  [[nodiscard]] std::size_t capacity() const noexcept { return capacity_; }

  /// Makes room for `positions` in all. Amortised: at least doubles when it grows.
  void reserve(std::size_t positions) {
    if (positions <= capacity_) return;
    const std::size_t capacity = std::max(positions, 2 * capacity_);
    for (Layer& layer : layers_) {
      layer.keys.reserve(Shape::keys, capacity, length_);
      layer.values.reserve(Shape::keys, capacity, length_);
    }
    capacity_ = capacity;
  }

  /// Forgets what lies beyond the first `positions`; the memory is kept.
  void truncate(std::size_t positions) noexcept { length_ = std::min(length_, positions); }
  /// Called by the model when all layers have stored `count` more positions.
  void advance(std::size_t count) noexcept { length_ += count; }

  [[nodiscard]] kernels::KeptKeys& keys(std::size_t layer) noexcept { return layers_[layer].keys; }
  [[nodiscard]] kernels::KeptKeys& values(std::size_t layer) noexcept { return layers_[layer].values; }

  [[nodiscard]] std::size_t bytes() const noexcept {
    std::size_t sum = 0;
    for (const Layer& layer : layers_) sum += layer.keys.bytes() + layer.values.bytes();
    return sum;
  }

 private:
  struct Layer {
    kernels::KeptKeys keys, values;
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
    kernels::KeptKeys keys, values;
  };
  std::array<Layer, Shape::cross_layers> layers;
  std::size_t tiles = 0;           ///< tiles with picture in them, which text may see
  std::size_t tile_positions = 0;  ///< vision states per tile

  std::size_t positions = 0;  ///< vision states of all tiles

  [[nodiscard]] kernels::KeyBlock block(std::size_t layer) const noexcept {
    return {layers[layer].keys, layers[layer].values, positions};
  }
  [[nodiscard]] std::size_t bytes() const noexcept {
    std::size_t sum = 0;
    for (const Layer& layer : layers) sum += layer.keys.bytes() + layer.values.bytes();
    return sum;
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
