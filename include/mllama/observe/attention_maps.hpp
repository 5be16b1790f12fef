// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include <mllama/core/check.hpp>
#include <mllama/core/context.hpp>
#include <mllama/vision/tiles.hpp>

/// Where a model looks in a picture when it chooses a word.

namespace mllama {

/// Attention to the patches of a picture's canvas, tiles side by side: rows from top to bottom.
struct PatchMap {
  std::size_t rows = 0, columns = 0;
  std::vector<float> values;

  [[nodiscard]] float at(std::size_t row, std::size_t column) const noexcept { return values[row * columns + column]; }

  PatchMap& operator+=(const PatchMap& other) {
    check(rows == other.rows && columns == other.columns, [&] {
      return Fault{
          .field = "patch map", .expected = concat(rows, " x ", columns), .found = concat(other.rows, " x ", other.columns)};
    });
    for (std::size_t i = 0; i < values.size(); ++i) values[i] += other.values[i];
    return *this;
  }

  /// How much the map points at something: 0 if all patches have the same, 1 if one has all.
  [[nodiscard]] double sharpness() const {
    double total = 0, entropy = 0;
    for (const float value : values) total += double{value};
    if (!(total > 0) || values.size() < 2) return 0;
    for (const float value : values) {
      if (value > 0) entropy -= double{value} / total * std::log(double{value} / total);
    }
    return 1 - entropy / std::log(static_cast<double>(values.size()));
  }
};

/// Puts attention to a picture's image tokens where their patches are. Each tile has class tokens, which have no place and are left out,
/// and then `grid` x `grid` patches.
/// Shapes:  attention (at least tiles of the canvas · (class_tokens + grid²))
/// Errors:  input_error if there are fewer tokens.
[[nodiscard]] inline PatchMap patch_map(std::span<const float> attention, Canvas canvas, std::size_t grid,
                                        std::size_t class_tokens = 1) {
  const std::size_t positions = class_tokens + grid * grid;
  check(attention.size() >= canvas.tiles() * positions, [&] {
    return Fault{
        .field = "image tokens", .expected = concat("at least ", canvas.tiles() * positions), .found = concat(attention.size())};
  });
  PatchMap map{canvas.rows * grid, canvas.columns * grid, {}};
  map.values.resize(map.rows * map.columns);
  for (std::size_t tile = 0; tile < canvas.tiles(); ++tile) {
    const std::size_t top = tile / canvas.columns * grid, left = tile % canvas.columns * grid;
    for (std::size_t y = 0; y < grid; ++y) {
      const float* const from = attention.data() + tile * positions + class_tokens + y * grid;
      std::copy_n(from, grid, map.values.data() + (top + y) * map.columns + left);
    }
  }
  return map;
}

/// An observer that keeps, of each forward pass, what the last row attends to in the pictures: the row that chooses the next token.
/// For one sequence at a time. A prompt's pass chooses the first token of the answer.
class AttentionMaps {
 public:
  /// Of one cross-attention layer.
  struct OfLayer {
    std::size_t index = 0;  ///< of the layer, among all text layers
    std::size_t heads = 0, tokens = 0;
    std::vector<float> probabilities;  ///< (heads, image tokens); of several pictures one after the other

    [[nodiscard]] std::span<const float> head(std::size_t h) const noexcept {
      return std::span(probabilities).subspan(h * tokens, tokens);
    }
    [[nodiscard]] std::vector<float> mean() const {
      std::vector<float> sum(tokens, 0);
      for (std::size_t h = 0; h < heads; ++h) {
        for (std::size_t t = 0; t < tokens; ++t) sum[t] += head(h)[t];
      }
      for (float& value : sum) value /= static_cast<float>(heads);
      return sum;
    }
  };
  using Pass = std::vector<OfLayer>;

  /// Of each head, or only the mean of all, which takes less memory. One that is not `on` looks at nothing.
  explicit AttentionMaps(bool each_head = true, bool on = true) : each_head_(each_head), on_(on) {}

  static constexpr bool wants(std::string_view name) { return name == "hidden_states" || name == "cross_attention"; }
  [[nodiscard]] bool wants_now(std::string_view) const noexcept { return on_; }

  template <int N>
  void operator()(const Tap& tap, View<const float, Tokens, Dim<N>>) {
    if (tap.index == 0) passes_.emplace_back();
  }
  template <int HeadCount>
  void operator()(const Tap& tap, View<const float, Dim<HeadCount>, Tokens, ImageTokens> shown) {
    if (passes_.empty()) passes_.emplace_back();
    Pass& pass = passes_.back();
    if (pass.empty() || pass.back().index != tap.index) pass.push_back({tap.index, HeadCount, shown.length(2), {}});
    OfLayer& layer = pass.back();
    const std::size_t rows = shown.length(1), tokens = shown.length(2);
    layer.probabilities.clear();  // of a panel of earlier rows
    for (std::size_t h = 0; h < HeadCount; ++h) {
      const auto last = shown.flat().subspan((h * rows + rows - 1) * tokens, tokens);
      layer.probabilities.insert(layer.probabilities.end(), last.begin(), last.end());
    }
    if (each_head_) return;
    layer.heads = HeadCount;
    layer.probabilities = layer.mean();
    layer.heads = 1;
  }

  /// One for each forward pass, so for each new token.
  [[nodiscard]] const std::vector<Pass>& passes() const noexcept { return passes_; }
  void clear() noexcept { passes_.clear(); }

 private:
  bool each_head_, on_;
  std::vector<Pass> passes_;
};

}  // namespace mllama
