// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstddef>
#include <optional>
#include <string_view>

#include <mllama/core/format.hpp>
#include <mllama/kernels/activation.hpp>
#include <mllama/kernels/rope.hpp>

/// Sizes of Mllama models as types. A variant derives from one and overrides what differs:
/// `struct Wide : Text11B { static constexpr int inner = 16384; };`

namespace mllama {

/// Which state of the local vision encoder an entry i of `intermediate_layers_indices` means.
enum class IntermediateState {
  input,           ///< the state that enters layer i
  output,          ///< the state that leaves layer i
  encoder_output,  ///< the final state, for every entry
};

/// The two places in which implementations of Mllama compute different numbers.
struct Numerics {
  IntermediateState intermediate_state = IntermediateState::input;
  /// Whether a text row that may see no image passes a cross-attention layer unchanged. If not, it attends to every image position.
  bool zero_masked_cross_rows = true;

  friend constexpr bool operator==(const Numerics&, const Numerics&) = default;
};

/// Names of the known combinations. `meta` is what the released weights were trained with, and the default.
namespace profile {
/// Meta's reference implementation.
struct meta {
  static constexpr std::string_view name = "meta";
  static constexpr Numerics numerics{IntermediateState::input, true};
};
/// transformers 4.45.0 … 4.54.1
struct transformers_4_45 {
  static constexpr std::string_view name = "transformers_4_45";
  static constexpr Numerics numerics{IntermediateState::input, false};
};
/// transformers 4.55.0 … 4.55.4, a regression
struct transformers_4_55 {
  static constexpr std::string_view name = "transformers_4_55";
  static constexpr Numerics numerics{IntermediateState::encoder_output, false};
};
/// transformers 4.56.0 and later
struct transformers_4_56 {
  static constexpr std::string_view name = "transformers_4_56";
  static constexpr Numerics numerics{IntermediateState::output, false};
};
/// No release: transformers_4_56 with the row multiplication of `meta`.
struct meta_rows {
  static constexpr std::string_view name = "meta_rows";
  static constexpr Numerics numerics{IntermediateState::output, true};
};
}  // namespace profile

/// The numerics of a profile's name, if there is one of that name.
[[nodiscard]] constexpr std::optional<Numerics> numerics_of(std::string_view name) {
  std::optional<Numerics> found;
  const auto consider = [&]<class P>(P) {
    if (P::name == name) found = P::numerics;
  };
  consider(profile::meta{});
  consider(profile::transformers_4_45{});
  consider(profile::transformers_4_55{});
  consider(profile::transformers_4_56{});
  consider(profile::meta_rows{});
  return found;
}

// What a configuration names, if it does not name another: see vision.hpp, projector.hpp and text.hpp.
template <class C>
struct VisionModel;
template <class VisionC, class TextC>
struct Projector;
template <class C>
struct TextMLP;

/// A canvas of tiles: rows, columns.
struct TileGrid {
  int rows = 1, columns = 1;

  friend constexpr bool operator==(const TileGrid&, const TileGrid&) = default;
};

/// What vision configurations have in common; the fields without a value here have none that could be common.
/// Key:  config.json, `vision_config`
struct VisionConfig {
  using weights = Stored;             ///< format of the linears
  using activation = GELU;            ///< hidden_act
  static constexpr int channels = 3;  ///< num_channels
  static constexpr int patch = 14;    ///< patch_size, pixels
  static constexpr int tiles = 4;     ///< max_num_tiles
  static constexpr double norm_eps = 1e-5;
  static constexpr std::array aspect_ratios{TileGrid{1, 1}, TileGrid{1, 2}, TileGrid{1, 3}, TileGrid{1, 4}, TileGrid{2, 1},
                                            TileGrid{2, 2}, TileGrid{3, 1}, TileGrid{4, 1}};  ///< supported_aspect_ratios
  static constexpr bool class_token = true;  ///< whether the states of a tile begin with one that is no patch
  /// The module that makes vision states of a picture: `outputs` features for each of VisionShape's image tokens, in layers that work
  /// on `picture_rows` rows.
  template <class C>
  using model = VisionModel<C>;
  /// The module that makes of them what text attends to, see projector.hpp.
  template <class VisionC, class TextC>
  using projector = Projector<VisionC, TextC>;
  // int image                side of a tile in pixels (image_size)
  // int hidden               hidden_size
  // int inner                intermediate_size
  // int heads                attention_heads
  // int layers               num_hidden_layers
  // int global_layers        num_global_layers
  // std::array intermediate  intermediate_layers_indices
};

/// What text configurations have in common.
/// Key:  config.json, `text_config`
struct TextConfig {
  using weights = Stored;                   ///< format of the linears in the layers
  using cross_weights = void;               ///< of those in cross-attention, if it differs
  using cross_key_weights = void;           ///< of those that make keys and values of pictures, if it differs from that
  using head_weights = StoredHead;          ///< of `lm_head`
  using embedding_weights = StoredFloat;    ///< of `embed_tokens`
  using activation = SiLU;                  ///< hidden_act
  static constexpr double norm_eps = 1e-5;  ///< rms_norm_eps
  static constexpr double rope_theta = 500000;
  static constexpr RopeScaling rope_scaling{
      .factor = 8, .low_freq_factor = 1, .high_freq_factor = 4, .original_max_position_embeddings = 8192};
  static constexpr int extra_embeddings = 8;  ///< rows of the input table beyond the vocabulary, `<|image|>` being the first
  static constexpr int pad_token = -1;        ///< pad_token_id, -1 if there is none; only printed
  static constexpr int window = 0;            ///< positions that a row of text sees of it, its own included; 0: all up to its own
  static constexpr int exit_after = 0;        ///< layers that are computed, the rest being left out; 0: all
  /// The perceptron of the layers of both kinds, which takes rows of its `width`.
  template <class C>
  using mlp = TextMLP<C>;
  // int vocab         vocab_size
  // int image_token   image_token_index
  // int hidden        hidden_size
  // int inner         intermediate_size
  // int heads         num_attention_heads
  // int kv_heads      num_key_value_heads
  // int layers        num_hidden_layers, of both kinds
  // std::array cross  cross_attention_layers
};

/// Llama-3.2-11B-Vision-Instruct, both 90B models
struct Vision560 : VisionConfig {
  static constexpr int image = 560, hidden = 1280, inner = 5120, heads = 16, layers = 32, global_layers = 8;
  static constexpr std::array intermediate{3, 7, 15, 23, 30};
};

/// Llama-3.2-11B-Vision (base)
struct Vision448 : Vision560 {
  static constexpr int image = 448;
};

struct Text11B : TextConfig {
  static constexpr int vocab = 128256, image_token = 128256, pad_token = 128004;
  static constexpr int hidden = 4096, inner = 14336, heads = 32, kv_heads = 8, layers = 40;
  static constexpr std::array cross{3, 8, 13, 18, 23, 28, 33, 38};
};

struct Text90B : Text11B {
  static constexpr int hidden = 8192, inner = 28672, heads = 64, layers = 100;
  static constexpr std::array cross{3, 8, 13, 18, 23, 28, 33, 38, 43, 48, 53, 58, 63, 68, 73, 78, 83, 88, 93, 98};
};

}  // namespace mllama
