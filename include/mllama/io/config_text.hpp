// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <mllama/core/check.hpp>
#include <mllama/core/python_json.hpp>
#include <mllama/io/config.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

/// The settings files of a model folder, as transformers 4.57.6 writes them: what config.hpp and processor_config.hpp read.

namespace mllama {

namespace detail {

inline constexpr std::string_view written_as = R"("transformers_version":"4.57.6")";

[[nodiscard]] inline std::string json_text(int number) { return concat(number); }
[[nodiscard]] inline std::string json_text(bool value) { return concat(value); }
/// With the decimal point by which Python tells floating point numbers apart.
[[nodiscard]] inline std::string json_text(double number) {
  std::string text = concat(number);
  if (text.find_first_of(".e") == std::string::npos) text += ".0";
  return text;
}
[[nodiscard]] inline std::string json_text(std::string_view text) { return python_string(text); }
[[nodiscard]] inline std::string json_text(const std::array<int, 2>& pair) { return concat('[', pair[0], ',', pair[1], ']'); }
template <class T>
[[nodiscard]] std::string json_text(const std::optional<T>& value) {
  return value ? json_text(*value) : "null";
}
template <class T>
[[nodiscard]] std::string json_text(const std::vector<T>& values) {
  std::string text = "[";
  for (const T& value : values) text += concat(text.size() == 1 ? "" : ",", json_text(value));
  return text += ']';
}

/// The members of an object, in the order in which they are added.
class JsonObjectText {
 public:
  template <class T>
  JsonObjectText& add(std::string_view key, const T& value) {
    return add_text(key, json_text(value));
  }
  JsonObjectText& add_text(std::string_view key, std::string_view json) {
    return add_member(concat(python_string(key), ':', json));
  }
  JsonObjectText& add_member(std::string_view member) {
    text_ += concat(text_.size() == 1 ? "" : ",", member);
    return *this;
  }
  [[nodiscard]] std::string text() const { return text_ + '}'; }
  [[nodiscard]] std::string file() const { return python_json(text(), "settings", 2) + '\n'; }

 private:
  std::string text_ = "{";
};

/// A list of one token is written as the token.
[[nodiscard]] inline std::string json_tokens(const std::vector<std::int32_t>& tokens) {
  return tokens.empty() ? "null" : tokens.size() == 1 ? json_text(tokens.front()) : json_text(tokens);
}

[[nodiscard]] inline std::string rope_scaling_text(const RopeSizes& rope) {
  if (rope.factor == 1) return R"({"rope_type":"default"})";
  return JsonObjectText()
      .add("factor", rope.factor)
      .add("high_freq_factor", rope.high_freq_factor)
      .add("low_freq_factor", rope.low_freq_factor)
      .add("original_max_position_embeddings", rope.original_max_position_embeddings)
      .add("rope_type", std::string_view("llama3"))
      .text();
}

[[nodiscard]] inline std::string text_config_text(const TextSizes& sizes, std::string_view dtype) {
  return JsonObjectText()
      .add("bos_token_id", sizes.bos)
      .add("cross_attention_layers", sizes.cross)
      .add("dropout", 0)
      .add("dtype", dtype)
      .add_text("eos_token_id", json_tokens(sizes.eos))
      .add("hidden_act", sizes.activation)
      .add("hidden_size", sizes.hidden)
      .add("initializer_range", 0.02)
      .add("intermediate_size", sizes.inner)
      .add("max_position_embeddings", sizes.max_positions)
      .add("model_type", std::string_view("mllama_text_model"))
      .add("num_attention_heads", sizes.heads)
      .add("num_hidden_layers", sizes.layers)
      .add("num_key_value_heads", sizes.kv_heads)
      .add("pad_token_id", sizes.pad)
      .add("rms_norm_eps", sizes.norm_eps)
      .add_text("rope_scaling", rope_scaling_text(sizes.rope))
      .add("rope_theta", sizes.rope.theta)
      .add("use_cache", true)
      .add("vocab_size", sizes.vocab)
      .text();
}

[[nodiscard]] inline std::string vision_config_text(const VisionSizes& sizes, std::string_view dtype) {
  return JsonObjectText()
      .add("attention_heads", sizes.heads)
      .add("dtype", dtype)
      .add("hidden_act", sizes.activation)
      .add("hidden_size", sizes.hidden)
      .add("image_size", sizes.image_size)
      .add("initializer_range", 0.02)
      .add("intermediate_layers_indices", sizes.taps)
      .add("intermediate_size", sizes.inner)
      .add("max_num_tiles", sizes.max_tiles)
      .add("model_type", std::string_view("mllama_vision_model"))
      .add("norm_eps", sizes.norm_eps)
      .add("num_channels", sizes.channels)
      .add("num_global_layers", sizes.global_layers)
      .add("num_hidden_layers", sizes.layers)
      .add("patch_size", sizes.patch_size)
      .add("supported_aspect_ratios", sizes.aspect_ratios)
      .add("vision_output_dim", sizes.output)
      .text();
}

}  // namespace detail

/// The JSON text of a `quantization_config`. Activations are computed in `compute_dtype`; a file of 8 bits has the 4-bit settings'
/// defaults.
[[nodiscard]] inline std::string quantization_config_text(const QuantizationSettings& settings, std::string_view compute_dtype) {
  const std::string type = settings.four_bit ? settings.type : QuantizationSettings{}.type;
  return detail::JsonObjectText()
      .add("_load_in_4bit", settings.four_bit)
      .add("_load_in_8bit", settings.eight_bit)
      .add("bnb_4bit_compute_dtype", settings.four_bit ? compute_dtype : "float32")
      .add("bnb_4bit_quant_storage", std::string_view("uint8"))
      .add("bnb_4bit_quant_type", std::string_view(type))
      .add("bnb_4bit_use_double_quant", settings.four_bit && settings.nested)
      .add("llm_int8_enable_fp32_cpu_offload", false)
      .add("llm_int8_has_fp16_weight", false)
      .add_text("llm_int8_skip_modules", settings.skip_modules.empty() ? "null" : detail::json_text(settings.skip_modules))
      .add("llm_int8_threshold", settings.int8_threshold)
      .add("load_in_4bit", settings.four_bit)
      .add("load_in_8bit", settings.eight_bit)
      .add("quant_method", std::string_view("bitsandbytes"))
      .text();
}

/// config.json of a model with vision part, `dtype` being the one that floats are stored in.
/// Errors:  config_error if there is no vision part
[[nodiscard]] inline std::string config_text(const ModelSizes& sizes, std::string_view dtype = "bfloat16") {
  check<config_error>(sizes.vision.has_value(), [&] {
    return Fault{.file = sizes.file, .field = "vision_config", .expected = "an object", .found = "nothing"};
  });
  detail::JsonObjectText config;
  config.add_text("architectures", R"(["MllamaForConditionalGeneration"])")
      .add("dtype", dtype)
      .add("image_token_index", sizes.image_token)
      .add("model_type", std::string_view("mllama"));
  if (!sizes.quantization.method.empty()) {
    config.add_text("quantization_config", quantization_config_text(sizes.quantization, dtype));
  }
  return config.add_text("text_config", detail::text_config_text(sizes.text, dtype))
      .add_member(detail::written_as)
      .add_text("vision_config", detail::vision_config_text(*sizes.vision, dtype))
      .file();
}

/// generation_config.json with the sampling settings of the released Instruct models.
[[nodiscard]] inline std::string generation_config_text(const TextSizes& sizes) {
  return detail::JsonObjectText()
      .add("bos_token_id", sizes.bos)
      .add("do_sample", true)
      .add_text("eos_token_id", detail::json_tokens(sizes.eos))
      .add("pad_token_id", sizes.pad)
      .add("temperature", 0.6)
      .add("top_p", 0.9)
      .add_member(detail::written_as)
      .file();
}

/// preprocessor_config.json with the colours of the released models.
[[nodiscard]] inline std::string preprocessor_config_text(const VisionSizes& sizes) {
  return detail::JsonObjectText()
      .add("do_convert_rgb", true)
      .add("do_normalize", true)
      .add("do_pad", true)
      .add("do_rescale", true)
      .add("do_resize", true)
      .add("image_mean", std::vector{0.48145466, 0.4578275, 0.40821073})
      .add("image_processor_type", std::string_view("MllamaImageProcessor"))
      .add("image_std", std::vector{0.26862954, 0.26130258, 0.27577711})
      .add("max_image_tiles", sizes.max_tiles)
      .add("processor_class", std::string_view("MllamaProcessor"))
      .add("resample", 2)
      .add("rescale_factor", 1.0 / 255)
      .add_text("size", concat("{\"height\":", sizes.image_size, ",\"width\":", sizes.image_size, '}'))
      .file();
}

}  // namespace mllama
