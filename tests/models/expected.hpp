// Made by CMake from the config.json files named below; edit those.
#pragma once

#include <array>
#include <string_view>

#include <mllama/models/mllama/llama.hpp>
#include <mllama/models/mllama/mllama.hpp>
#include <mllama/models/mllama/models.hpp>

namespace mllama::models {

// instruct/config.json
struct InstructVision : VisionConfig {
  static constexpr int image = 560;
  static constexpr int hidden = 1280, inner = 5120, heads = 16, layers = 32, global_layers = 8;
  static constexpr std::array intermediate{3, 7, 15, 23, 30};
};
struct InstructText : TextConfig {
  static constexpr int vocab = 128256, image_token = 128256, pad_token = 128004;
  static constexpr int hidden = 4096, inner = 14336, heads = 32, kv_heads = 8, layers = 40;
  static constexpr std::array cross{3, 8, 13, 18, 23, 28, 33, 38};
};
struct Instruct : mllama::Mllama<InstructVision, InstructText> {
  static constexpr std::string_view name = "instruct";
};

// odd/config.json
struct OddSizesVision : VisionConfig {
  using activation = QuickGELU;
  static constexpr int image = 39, patch = 13, channels = 1, tiles = 6;
  static constexpr int hidden = 33, inner = 17, heads = 3, layers = 5, global_layers = 1;
  static constexpr std::array intermediate{4, 0};
  static constexpr double norm_eps = 2e-05;
  static constexpr std::array aspect_ratios{TileGrid{2, 3}, TileGrid{1, 1}, TileGrid{6, 1}};
};
struct OddSizesText : TextConfig {
  using activation = TanhGELU;
  static constexpr int vocab = 77, image_token = 7;
  static constexpr int hidden = 42, inner = 51, heads = 7, kv_heads = 1, layers = 7;
  static constexpr std::array cross{1, 5};
  static constexpr double norm_eps = 1e-06;
  static constexpr double rope_theta = 1234.5;
  static constexpr RopeScaling rope_scaling{
      .factor = 2.5, .low_freq_factor = 0.5, .high_freq_factor = 3, .original_max_position_embeddings = 96};
};
struct OddSizes : mllama::Mllama<OddSizesVision, OddSizesText> {
  static constexpr std::string_view name = "odd-sizes";
};

// text/config.json
struct TextOnlyText : TextConfig {
  static constexpr int vocab = 99, image_token = 99, pad_token = 0;
  static constexpr int hidden = 32, inner = 40, heads = 4, kv_heads = 2, layers = 6;
  static constexpr std::array cross{1, 4};
  static constexpr RopeScaling rope_scaling{};
};
struct TextOnly : mllama::Mllama<Vision560, TextOnlyText> {
  static constexpr std::string_view name = "text-only";
};

// llama/config.json
struct LlamaText : LlamaConfig {
  static constexpr int vocab = 128;
  static constexpr int hidden = 48, inner = 56, heads = 6, kv_heads = 6, layers = 3;
  static constexpr double norm_eps = 1e-06;
  static constexpr double rope_theta = 10000;
  static constexpr RopeScaling rope_scaling{
      .factor = 32, .low_freq_factor = 1, .high_freq_factor = 4, .original_max_position_embeddings = 8192};
};
struct Llama : mllama::Llama<LlamaText> {
  static constexpr std::string_view name = "llama";
};

using ModelList = Models<Instruct, OddSizes, TextOnly, Llama>;

}  // namespace mllama::models
