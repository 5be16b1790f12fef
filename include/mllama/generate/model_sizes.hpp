// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <mllama/core/check.hpp>
#include <mllama/io/config.hpp>
#include <mllama/models/mllama/mllama.hpp>

/// Model types and configurations in files: the same sizes, at compile time and at run time.

namespace mllama {

namespace detail {

template <class C>
[[nodiscard]] VisionSizes vision_sizes_of() {
  VisionSizes sizes{.hidden = C::hidden,
                    .inner = C::inner,
                    .heads = C::heads,
                    .layers = C::layers,
                    .global_layers = C::global_layers,
                    .channels = C::channels,
                    .output = VisionShape<C>::output,
                    .image_size = C::image,
                    .patch_size = C::patch,
                    .max_tiles = C::tiles,
                    .norm_eps = C::norm_eps,
                    .activation = C::activation::key,
                    .taps = {C::intermediate.begin(), C::intermediate.end()},
                    .aspect_ratios = {}};
  for (const TileGrid grid : C::aspect_ratios) sizes.aspect_ratios.push_back({grid.rows, grid.columns});
  return sizes;
}

template <class C>
[[nodiscard]] TextSizes text_sizes_of() {
  TextSizes sizes{.vocab = C::vocab,
                  .extra_embeddings = C::extra_embeddings,
                  .hidden = C::hidden,
                  .inner = C::inner,
                  .heads = C::heads,
                  .kv_heads = C::kv_heads,
                  .layers = C::layers,
                  .norm_eps = C::norm_eps,
                  .activation = C::activation::key,
                  .cross = {C::cross.begin(), C::cross.end()},
                  .rope = {.theta = C::rope_theta},
                  .bos = {},
                  .eos = {},
                  .pad = {}};
  if (C::rope_scaling.factor != 1) {
    sizes.rope = {.theta = C::rope_theta,
                  .factor = C::rope_scaling.factor,
                  .low_freq_factor = C::rope_scaling.low_freq_factor,
                  .high_freq_factor = C::rope_scaling.high_freq_factor,
                  .original_max_position_embeddings = C::rope_scaling.original_max_position_embeddings};
  }
  if (C::pad_token >= 0) sizes.pad = C::pad_token;
  return sizes;
}

/// Compares two configurations, field by field, and remembers the first difference.
class ConfigCheck {
 public:
  explicit ConfigCheck(std::string file) : file_(std::move(file)) {}

  void compare(const VisionSizes& expected, const VisionSizes& found) {
    same("vision_config.hidden_size", expected.hidden, found.hidden);
    same("vision_config.intermediate_size", expected.inner, found.inner);
    same("vision_config.attention_heads", expected.heads, found.heads);
    same("vision_config.num_hidden_layers", expected.layers, found.layers);
    same("vision_config.num_global_layers", expected.global_layers, found.global_layers);
    same("vision_config.num_channels", expected.channels, found.channels);
    same("vision_config.image_size", expected.image_size, found.image_size);
    same("vision_config.patch_size", expected.patch_size, found.patch_size);
    same("vision_config.max_num_tiles", expected.max_tiles, found.max_tiles);
    same("vision_config.norm_eps", expected.norm_eps, found.norm_eps);
    same("vision_config.hidden_act", expected.activation, found.activation);
    same("vision_config.intermediate_layers_indices", expected.taps, found.taps);
    same("vision_config.supported_aspect_ratios", expected.aspect_ratios, found.aspect_ratios);
  }
  void compare(const TextSizes& expected, const TextSizes& found) {
    same("text_config.vocab_size", expected.vocab, found.vocab);
    same("text_config.model_type", family(expected), family(found));
    same("text_config.hidden_size", expected.hidden, found.hidden);
    same("text_config.intermediate_size", expected.inner, found.inner);
    same("text_config.num_attention_heads", expected.heads, found.heads);
    same("text_config.num_key_value_heads", expected.kv_heads, found.kv_heads);
    same("text_config.num_hidden_layers", expected.layers, found.layers);
    same("text_config.rms_norm_eps", expected.norm_eps, found.norm_eps);
    same("text_config.hidden_act", expected.activation, found.activation);
    same("text_config.cross_attention_layers", expected.cross, found.cross);
    same("text_config.rope_theta", expected.rope.theta, found.rope.theta);
    same("text_config.rope_scaling.factor", expected.rope.factor, found.rope.factor);
    same("text_config.rope_scaling.low_freq_factor", expected.rope.low_freq_factor, found.rope.low_freq_factor);
    same("text_config.rope_scaling.high_freq_factor", expected.rope.high_freq_factor, found.rope.high_freq_factor);
    same("text_config.rope_scaling.original_max_position_embeddings", expected.rope.original_max_position_embeddings,
         found.rope.original_max_position_embeddings);
  }
  template <class Value>
  void same(std::string_view field, const Value& expected, const Value& found) {
    if (difference || expected == found) return;
    difference = Fault{.file = file_,
                       .field = std::string(field),
                       .expected = text(expected),
                       .found = text(found),
                       .note = "the file does not belong to this model type"};
  }

  std::optional<Fault> difference;

 private:
  /// What tells models with another number of embeddings apart.
  static std::string_view family(const TextSizes& sizes) { return sizes.extra_embeddings == 0 ? "llama" : "mllama_text_model"; }

  static std::string text(std::string_view value) { return std::string(value); }
  static std::string text(double value) { return concat(value); }
  static std::string text(int value) { return concat(value); }
  static std::string text(const std::array<int, 2>& value) { return concat("[", value[0], ", ", value[1], "]"); }
  template <class Element>
  static std::string text(const std::vector<Element>& values) {
    std::string out;
    for (const Element& value : values) out += concat(out.empty() ? "[" : ", ", text(value));
    return out.empty() ? "[]" : out + "]";
  }

  std::string file_;
};

}  // namespace detail

/// The configuration of a model type. What a type does not say has the released models' value, but for tokens, of which it knows
/// the padding alone.
template <class Model>
[[nodiscard]] ModelSizes sizes_of() {
  return {.file = std::string(Model::name),
          .vision = detail::vision_sizes_of<typename Model::Vision>(),
          .text = detail::text_sizes_of<typename Model::Text>(),
          .image_token = Model::Text::image_token,
          .quantization = {}};
}

/// The first field in which a folder's configuration is not that of the model type, if there is one. A save of the text model alone
/// has no other fields than those of the text.
template <class Model>
[[nodiscard]] std::optional<Fault> config_difference(const ModelSizes& found) {
  detail::ConfigCheck check(found.file);
  if (found.vision) check.compare(detail::vision_sizes_of<typename Model::Vision>(), *found.vision);
  check.compare(detail::text_sizes_of<typename Model::Text>(), found.text);
  if (found.vision) check.same("image_token_index", int{Model::Text::image_token}, static_cast<int>(found.image_token));
  return check.difference;
}

}  // namespace mllama
