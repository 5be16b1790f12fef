// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <mllama/core/check.hpp>
#include <mllama/io/json_file.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

/// What config.json and generation_config.json of a model folder say, as run-time values. The sizes are what a model type is
/// compared with, or generated from; every reading rule of transformers' MllamaConfig and LlamaConfig is applied here and nowhere else.

namespace mllama {

/// Rotary embedding of the text model; `factor` = 1 means the plain one, whose other fields stay as they are here.
struct RopeSizes {
  double theta = 500000;
  double factor = 1;
  double low_freq_factor = 1;
  double high_freq_factor = 4;
  int original_max_position_embeddings = 8192;

  friend bool operator==(const RopeSizes&, const RopeSizes&) = default;
};

/// `vision_config`.
struct VisionSizes {
  int hidden = 1280;      ///< hidden_size
  int inner = 5120;       ///< intermediate_size
  int heads = 16;         ///< attention_heads
  int layers = 32;        ///< num_hidden_layers: local encoder
  int global_layers = 8;  ///< num_global_layers: gated encoder
  int channels = 3;       ///< num_channels
  int output = 7680;      ///< vision_output_dim = hidden · (1 + number of taps)
  int image_size = 448;   ///< side of a tile in pixels
  int patch_size = 14;
  int max_tiles = 4;                        ///< max_num_tiles
  double norm_eps = 1e-5;                   ///< of the layers' norms only
  std::string_view activation = "gelu";     ///< hidden_act, its one name among synonyms
  std::vector<int> taps{3, 7, 15, 23, 30};  ///< intermediate_layers_indices, each 0 to `layers`
  std::vector<std::array<int, 2>> aspect_ratios{{1, 1}, {1, 2}, {1, 3}, {1, 4},
                                                {2, 1}, {2, 2}, {3, 1}, {4, 1}};  ///< tiles high, wide

  friend bool operator==(const VisionSizes&, const VisionSizes&) = default;
};

/// `text_config`.
struct TextSizes {
  int vocab = 128256;                                    ///< vocab_size: rows of the head
  int extra_embeddings = 8;                              ///< rows of the embedding beyond those: 8 of Mllama, none of Llama
  bool tied_head = false;                                ///< tie_word_embeddings: the embedding is the head, too; of Llama only
  int hidden = 4096;                                     ///< hidden_size
  int inner = 14336;                                     ///< intermediate_size
  int heads = 32;                                        ///< num_attention_heads
  int kv_heads = 8;                                      ///< num_key_value_heads
  int layers = 40;                                       ///< num_hidden_layers, of both kinds
  int max_positions = 131072;                            ///< max_position_embeddings
  double norm_eps = 1e-5;                                ///< rms_norm_eps
  std::string_view activation = "silu";                  ///< hidden_act, its one name among synonyms
  std::vector<int> cross{3, 8, 13, 18, 23, 28, 33, 38};  ///< cross_attention_layers, ascending
  RopeSizes rope;
  std::optional<std::int32_t> bos = 128000;  ///< bos_token_id
  std::vector<std::int32_t> eos{128001};     ///< eos_token_id, one or a list
  std::optional<std::int32_t> pad = 128004;  ///< pad_token_id

  friend bool operator==(const TextSizes&, const TextSizes&) = default;
};

/// `quantization_config`: how bitsandbytes was asked to quantise. Each tensor says for itself how it is stored, and what it says
/// counts; but for the threshold, this is a hint to compare with.
struct QuantizationSettings {
  std::string method = {};    ///< quant_method; empty if there is no quantization_config
  bool four_bit = false;      ///< load_in_4bit
  bool eight_bit = false;     ///< load_in_8bit
  std::string type = "fp4";   ///< bnb_4bit_quant_type, of the 4-bit tensors
  bool nested = false;        ///< bnb_4bit_use_double_quant
  double int8_threshold = 6;  ///< llm_int8_threshold: from this magnitude on, activations are outliers; 0: none are
  std::vector<std::string> skip_modules = {};  ///< llm_int8_skip_modules

  friend bool operator==(const QuantizationSettings&, const QuantizationSettings&) = default;
};

/// A whole config.json. A `mllama_text_model` and a `llama` have no vision part.
struct ModelSizes {
  std::string file;  ///< for messages
  std::optional<VisionSizes> vision;
  TextSizes text;
  std::int32_t image_token = 128256;  ///< image_token_index or image_token_id
  QuantizationSettings quantization;
};

/// generation_config.json: how transformers' `generate` samples when a call does not say otherwise.
struct GenerationSettings {
  bool do_sample = false;
  double temperature = 1;         ///< logits are divided by it
  int top_k = 50;                 ///< 0: off. The default is in the library, not in files
  double top_p = 1;               ///< 1: off
  double min_p = 0;               ///< 0: off
  double repetition_penalty = 1;  ///< 1: off
  std::optional<int> max_new_tokens;
  std::optional<int> max_length;  ///< prompt included; counts only without max_new_tokens. Neither: 20 new tokens
  std::optional<std::int32_t> bos, pad;
  std::vector<std::int32_t> eos;
};

namespace detail {

[[noreturn]] inline void reject(const JsonField& field, std::string expected, std::string found, std::string note = {}) {
  throw config_error(Fault{.file = field.file(),
                           .field = field.name(),
                           .expected = std::move(expected),
                           .found = std::move(found),
                           .note = std::move(note)});
}

/// Sizes are bounded such that no product of two overflows an int64, and no width of a tensor an int.
inline constexpr int largest_width = 1 << 20, most_layers = 999, largest_image = 1 << 14, most_tiles = 1024,
                     largest_vocab = 1 << 24;

inline int read_size(const JsonField& field, int fallback, int most, int least = 1) {
  return field.present() ? field.integer(least, most) : fallback;
}

inline double read_eps(const JsonField& field, double fallback = 1e-5) {
  const auto eps = field.as<double>(fallback);
  if (!(eps > 0 && eps <= 1)) field.fail<config_error>("a number above 0, at most 1");
  return eps;
}

/// The one name that the activation's tag has, whatever synonym of transformers' table the file uses.
inline std::string_view read_activation(const JsonField& field, std::string_view fallback) {
  static constexpr auto names = std::to_array<std::pair<std::string_view, std::string_view>>({
      {"gelu", "gelu"},
      {"gelu_new", "gelu_pytorch_tanh"},
      {"gelu_pytorch_tanh", "gelu_pytorch_tanh"},
      {"quick_gelu", "quick_gelu"},
      {"relu", "relu"},
      {"silu", "silu"},
      {"swish", "silu"},
  });
  if (!field.present()) return fallback;
  const auto name = field.as<std::string>();
  for (const auto& [synonym, key] : names) {
    if (name == synonym) return key;
  }
  field.fail<config_error>("gelu, gelu_new, gelu_pytorch_tanh, quick_gelu, relu, silu or swish");
}

inline std::optional<std::int32_t> read_token(const JsonField& field) {
  if (!field.present()) return std::nullopt;
  return field.integer<std::int32_t>(0, std::numeric_limits<std::int32_t>::max());
}

/// A number or a list of numbers.
inline std::vector<std::int32_t> read_tokens(const JsonField& field) {
  std::vector<std::int32_t> tokens;
  if (field.is_array()) {
    for (const JsonField& element : field.elements())
      tokens.push_back(element.integer<std::int32_t>(0, std::numeric_limits<std::int32_t>::max()));
  } else if (const auto token = read_token(field)) {
    tokens.push_back(*token);
  }
  return tokens;
}

inline void check_model_type(const JsonField& config, std::string_view type) {
  const JsonField field = config["model_type"];
  if (field.present() && field.as<std::string>() != type) field.fail<config_error>(concat('"', type, '"'));
}

/// Two names of one number: `first` was the only one once.
inline JsonField either(const JsonField& first, const JsonField& second) {
  if (first.present() && second.present() && first.as<int>() != second.as<int>()) {
    first.fail<config_error>(concat("the same as ", second.name(), ", ", second.as<int>()),
                             "releases of transformers differ in which one counts");
  }
  return first.present() ? first : second;
}

inline void check_divides(const JsonField& config, std::string_view whole, int size, std::string_view part, int count) {
  if (size % count != 0) reject(config[whole], concat("a multiple of ", part, ", ", count), concat(size));
}

inline RopeSizes read_rope(const JsonField& text, double usual_theta) {
  RopeSizes rope;
  const bool is_new = text["rope_parameters"].present();  // transformers 5 writes one object, 4 an object and theta beside it
  const JsonField block = text[is_new ? "rope_parameters" : "rope_scaling"];
  const JsonField theta = is_new && block["rope_theta"].present() ? block["rope_theta"] : text["rope_theta"];
  rope.theta = theta.as<double>(usual_theta);
  if (!(rope.theta > 1 && rope.theta < 1e30)) theta.fail<config_error>("a number above 1");

  const JsonField type = block["rope_type"].present() ? block["rope_type"] : block["type"];
  const auto kind = type.as<std::string>("default");
  if (kind == "default") return rope;
  if (kind != "llama3") type.fail<config_error>("\"default\" or \"llama3\"");
  const auto positive = [&](std::string_view key) {
    const auto value = block[key].as<double>();
    if (!(value > 0 && value < 1e9)) block[key].fail<config_error>("a number above 0");
    return value;
  };
  rope.factor = positive("factor");
  rope.low_freq_factor = positive("low_freq_factor");
  rope.high_freq_factor = positive("high_freq_factor");
  if (rope.high_freq_factor <= rope.low_freq_factor) {
    block["high_freq_factor"].fail<config_error>(concat("a number above low_freq_factor, ", rope.low_freq_factor));
  }
  rope.original_max_position_embeddings = block["original_max_position_embeddings"].integer(1, std::numeric_limits<int>::max());
  return rope;
}

/// Reads what configurations of Mllama's text and of Llama have in common over the defaults of the one or the other.
inline TextSizes read_llama_layers(const JsonField& config, TextSizes text) {
  text.vocab = read_size(config["vocab_size"], text.vocab, largest_vocab);
  text.hidden = read_size(config["hidden_size"], text.hidden, largest_width);
  text.inner = read_size(config["intermediate_size"], text.inner, largest_width);
  text.heads = read_size(config["num_attention_heads"], text.heads, largest_width);
  text.kv_heads = read_size(config["num_key_value_heads"], text.kv_heads == 0 ? text.heads : text.kv_heads, largest_width);
  text.layers = read_size(config["num_hidden_layers"], text.layers, most_layers);
  text.max_positions = read_size(config["max_position_embeddings"], text.max_positions, std::numeric_limits<int>::max());
  text.norm_eps = read_eps(config["rms_norm_eps"], text.norm_eps);
  text.activation = read_activation(config["hidden_act"], text.activation);
  text.rope = read_rope(config, text.rope.theta);
  if (const JsonField field = config["bos_token_id"]; field.present()) text.bos = read_token(field);
  if (const JsonField field = config["eos_token_id"]; field.present()) text.eos = read_tokens(field);
  if (const JsonField field = config["pad_token_id"]; field.present()) text.pad = read_token(field);

  check_divides(config, "hidden_size", text.hidden, "num_attention_heads", text.heads);
  check_divides(config, "num_attention_heads", text.heads, "num_key_value_heads", text.kv_heads);
  if (const int head_dim = text.hidden / text.heads; head_dim % 2 != 0) {
    reject(config["hidden_size"], "an even number of features per head, for the rotary embedding", concat(head_dim));
  }
  return text;
}

inline TextSizes read_text_sizes(const JsonField& config) {
  check_model_type(config, "mllama_text_model");
  TextSizes text = read_llama_layers(config, {});
  if (const JsonField tied = config["tie_word_embeddings"]; tied.as<bool>(false)) {
    tied.fail<config_error>("false", "Mllama's head has fewer rows than its embedding");
  }

  const JsonField cross = config["cross_attention_layers"];
  if (cross.present()) {
    text.cross.clear();
    for (const JsonField& layer : cross.elements()) text.cross.push_back(layer.integer(0, text.layers - 1));
    std::sort(text.cross.begin(), text.cross.end());  // the reference only asks whether a layer is in the list
  }
  if (std::adjacent_find(text.cross.begin(), text.cross.end()) != text.cross.end()) cross.fail<config_error>("every layer once");
  if (!text.cross.empty() && text.cross.back() >= text.layers) {
    reject(cross, concat("layers below num_hidden_layers, ", text.layers), concat(text.cross.back()));
  }
  if (std::cmp_equal(text.cross.size(), text.layers)) cross.fail<config_error>("at least one layer that is not in it");
  return text;
}

/// Llama of any release; Llama 3.0 to 3.2 scale rotations not at all, or as `llama3`.
inline TextSizes read_llama_sizes(const JsonField& config) {
  TextSizes text = read_llama_layers(config, {.vocab = 32000,
                                              .extra_embeddings = 0,
                                              .inner = 11008,
                                              .kv_heads = 0,
                                              .layers = 32,
                                              .max_positions = 2048,
                                              .norm_eps = 1e-6,
                                              .cross = {},
                                              .rope = {.theta = 10000},
                                              .bos = 1,
                                              .eos = {2},
                                              .pad = {}});
  text.tied_head = config["tie_word_embeddings"].as<bool>(false);
  if (const JsonField head_dim = config["head_dim"]; head_dim.present() && head_dim.as<int>() != text.hidden / text.heads) {
    head_dim.fail<config_error>(concat("hidden_size / num_attention_heads, ", text.hidden / text.heads));
  }
  for (const std::string_view bias : {"attention_bias", "mlp_bias"}) {
    if (config[bias].as<bool>(false)) config[bias].fail<config_error>("false");
  }
  return text;
}

/// SigLIP: one tile, no states but the last.
inline VisionSizes read_siglip_sizes(const JsonField& config) {
  VisionSizes vision{.hidden = read_size(config["hidden_size"], 768, largest_width),
                     .inner = read_size(config["intermediate_size"], 3072, largest_width),
                     .heads = read_size(config["num_attention_heads"], 12, largest_width),
                     .layers = read_size(config["num_hidden_layers"], 12, most_layers),
                     .global_layers = 0,
                     .channels = read_size(config["num_channels"], 3, 64),
                     .image_size = read_size(config["image_size"], 224, largest_image),
                     .patch_size = read_size(config["patch_size"], 16, largest_image),
                     .max_tiles = 1,
                     .norm_eps = read_eps(config["layer_norm_eps"], 1e-6),
                     .activation = read_activation(config["hidden_act"], "gelu_pytorch_tanh"),
                     .taps = {},
                     .aspect_ratios = {{1, 1}}};
  vision.output = vision.hidden;
  check_divides(config, "hidden_size", vision.hidden, "num_attention_heads", vision.heads);
  return vision;
}

inline VisionSizes read_vision_sizes(const JsonField& config) {
  if (config["model_type"].as<std::string>("") == "siglip_vision_model") return read_siglip_sizes(config);
  check_model_type(config, "mllama_vision_model");
  VisionSizes vision;
  vision.hidden = read_size(config["hidden_size"], vision.hidden, largest_width);
  vision.inner = read_size(config["intermediate_size"], vision.inner, largest_width);
  vision.heads = read_size(either(config["attention_heads"], config["num_attention_heads"]), vision.heads, largest_width);
  vision.layers = read_size(config["num_hidden_layers"], vision.layers, most_layers);
  vision.global_layers = read_size(config["num_global_layers"], vision.global_layers, most_layers);
  vision.channels = read_size(config["num_channels"], vision.channels, 64);
  vision.output = read_size(config["vision_output_dim"], vision.output, std::numeric_limits<int>::max());
  vision.image_size = read_size(config["image_size"], vision.image_size, largest_image);
  vision.patch_size = read_size(config["patch_size"], vision.patch_size, largest_image);
  vision.max_tiles = read_size(config["max_num_tiles"], vision.max_tiles, most_tiles);
  vision.norm_eps = read_eps(config["norm_eps"]);
  vision.activation = read_activation(config["hidden_act"], vision.activation);
  check_divides(config, "hidden_size", vision.hidden, "attention_heads", vision.heads);
  check_divides(config, "image_size", vision.image_size, "patch_size", vision.patch_size);

  const JsonField taps = config["intermediate_layers_indices"];
  if (taps.present()) {
    vision.taps.clear();
    for (const JsonField& layer : taps.elements()) vision.taps.push_back(layer.integer(0, vision.layers));
  }
  if (vision.taps.empty() || vision.taps.size() > 1000) taps.fail<config_error>("1 to 1000 layers");
  if (const int last = *std::max_element(vision.taps.begin(), vision.taps.end()); last > vision.layers) {
    reject(taps, concat("layers up to num_hidden_layers, ", vision.layers), concat(last));
  }
  if (const std::int64_t width = std::int64_t{vision.hidden} * (1 + std::ssize(vision.taps)); vision.output != width) {
    reject(config["vision_output_dim"], concat(width, ", hidden_size times one more than intermediate_layers_indices has"),
           concat(vision.output));
  }

  const JsonField ratios = config["supported_aspect_ratios"];
  if (ratios.present()) {
    vision.aspect_ratios.clear();
    for (const JsonField& ratio : ratios.elements()) {
      const auto sides = ratio.elements();
      if (sides.size() != 2) ratio.fail<config_error>("two numbers, tiles high and tiles wide");
      const int high = sides[0].integer(1, most_tiles), wide = sides[1].integer(1, most_tiles);
      if (high * wide > vision.max_tiles) ratio.fail<config_error>(concat("no more tiles than max_num_tiles, ", vision.max_tiles));
      vision.aspect_ratios.push_back({high, wide});
    }
    if (vision.aspect_ratios.empty() || vision.aspect_ratios.size() > 10000) ratios.fail<config_error>("1 to 10000 ratios");
    auto sorted = vision.aspect_ratios;
    std::sort(sorted.begin(), sorted.end());
    if (std::adjacent_find(sorted.begin(), sorted.end()) != sorted.end()) ratios.fail<config_error>("every ratio once");
  } else if (vision.max_tiles != 4) {
    ratios.fail<config_error>("a list", concat("there is a default for 4 tiles only, and max_num_tiles is ", vision.max_tiles));
  }

  // A row of the table of tile positions is the longest axis of all; axes are ints.
  const std::int64_t grid = vision.image_size / vision.patch_size, positions = vision.max_tiles * (grid * grid + 1);
  if (positions > std::numeric_limits<int>::max() / vision.hidden) {
    reject(config, "fewer than 2^31 features in all positions of all tiles", concat(positions, " x ", vision.hidden));
  }
  return vision;
}

/// The block at the top level, or else the one inside of text_config.
inline QuantizationSettings read_quantization(const JsonField& config) {
  const JsonField top = config["quantization_config"];
  const JsonField block = top.present() ? top : config["text_config"]["quantization_config"];
  QuantizationSettings settings;
  if (!block.present()) return settings;
  settings.method = block["quant_method"].as<std::string>("bitsandbytes");
  if (settings.method != "bitsandbytes") block["quant_method"].fail<config_error>("\"bitsandbytes\"");
  settings.four_bit = block["load_in_4bit"].as<bool>(false);
  settings.eight_bit = block["load_in_8bit"].as<bool>(false);
  settings.type = block["bnb_4bit_quant_type"].as<std::string>(std::move(settings.type));
  settings.nested = block["bnb_4bit_use_double_quant"].as<bool>(false);
  const JsonField threshold = block["llm_int8_threshold"];
  settings.int8_threshold = threshold.as<double>(settings.int8_threshold);
  if (settings.int8_threshold < 0) threshold.fail<config_error>("a number from 0 on");
  if (const JsonField skip = block["llm_int8_skip_modules"]; skip.present()) {
    for (const JsonField& module : skip.elements(2048)) settings.skip_modules.push_back(module.as<std::string>());
  }
  return settings;
}

inline std::string folder_file(const std::string& folder, std::string_view name) { return concat(folder, "/", name); }

}  // namespace detail

/// The sizes in a config.json that has been parsed.
/// Errors:  format_error if a field has another type or an impossible value, config_error if fields contradict each other or ask
/// for
///          what no Mllama has; both name the field.
/// Source:  transformers' MllamaConfig, MllamaTextConfig, MllamaVisionConfig, LlamaConfig; where its releases disagree the file is rejected.
template <class = void>  // so that a program can have it compiled elsewhere
[[nodiscard]] ModelSizes model_sizes(const JsonField& config) {
  ModelSizes sizes;
  sizes.file = config.file();
  const auto type = config["model_type"].as<std::string>();
  const bool is_text = type == "mllama_text_model", is_llama = type == "llama";
  if (!is_text && !is_llama && type != "mllama")
    config["model_type"].fail<config_error>("\"mllama\", \"mllama_text_model\" or \"llama\"");
  sizes.quantization = detail::read_quantization(config);
  if (is_llama) {
    sizes.text = detail::read_llama_sizes(config);
    return sizes;
  }
  sizes.text = detail::read_text_sizes(is_text ? config : config["text_config"]);
  if (is_text) return sizes;
  sizes.vision = detail::read_vision_sizes(config["vision_config"]);
  const JsonField token = detail::either(config["image_token_index"], config["image_token_id"]);
  sizes.image_token = token.as<std::int32_t>(sizes.image_token);
  if (sizes.image_token < 0 || sizes.image_token >= sizes.text.vocab + 8) {
    detail::reject(token, concat("a row of the embedding, 0 to ", sizes.text.vocab + 7), concat(sizes.image_token));
  }
  return sizes;
}
#if defined(MLLAMA_ELSEWHERE)
extern template ModelSizes model_sizes<>(const JsonField&);
#endif

/// The sizes in a model folder's config.json. Errors: those of JsonFile and model_sizes.
[[nodiscard]] inline ModelSizes read_model_sizes(const std::string& folder) {
  return model_sizes(JsonFile(detail::folder_file(folder, "config.json")).root());
}

/// The settings in a model folder's generation_config.json; without that file the library's defaults with the tokens of `text`.
/// Fields that are not listed in GenerationSettings are ignored.
/// Errors:  file_error, format_error, config_error.
/// Source:  transformers' GenerationConfig.
template <class = void>  // see model_sizes
[[nodiscard]] GenerationSettings read_generation_settings(const std::string& folder, const TextSizes& text) {
  GenerationSettings settings;
  const std::string file = detail::folder_file(folder, "generation_config.json");
  if (!detail::exists(file)) {
    settings.bos = text.bos;
    settings.pad = text.pad;
    settings.eos = text.eos;
    return settings;
  }
  const JsonFile document(file);
  const JsonField& config = document.root();
  const auto number = [&](std::string_view key, double fallback, double least, double most) {
    const JsonField field = config[key];
    const auto value = field.as<double>(fallback);
    if (!(value >= least && value <= most)) field.fail<config_error>(concat("a number from ", least, " to ", most));
    return value;
  };
  const auto count = [&](std::string_view key) -> std::optional<int> {
    if (const JsonField field = config[key]; field.present()) return field.integer(0, std::numeric_limits<int>::max());
    return std::nullopt;
  };
  settings.do_sample = config["do_sample"].as<bool>(false);
  settings.temperature = number("temperature", 1, 0, 1e9);
  if (settings.do_sample && static_cast<float>(settings.temperature) == 0)  // scores are floats
    config["temperature"].fail<config_error>("a number above 0", "with do_sample");
  settings.top_k = config["top_k"].is_null() ? 0 : count("top_k").value_or(settings.top_k);
  settings.top_p = number("top_p", 1, 0, 1);
  settings.min_p = number("min_p", 0, 0, 1);
  settings.repetition_penalty = number("repetition_penalty", 1, 1e-9, 1e9);
  settings.max_new_tokens = count("max_new_tokens");
  settings.max_length = count("max_length");
  settings.bos = detail::read_token(config["bos_token_id"]);
  settings.pad = detail::read_token(config["pad_token_id"]);
  settings.eos = detail::read_tokens(config["eos_token_id"]);
  return settings;
}
#if defined(MLLAMA_ELSEWHERE)
extern template GenerationSettings read_generation_settings<>(const std::string&, const TextSizes&);
#endif

}  // namespace mllama
