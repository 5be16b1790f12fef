// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <mllama/core/check.hpp>
#include <mllama/core/json.hpp>
#include <mllama/io/json_file.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

/// `adapter_config.json`, which PEFT saves beside the tensors of an adapter.

namespace mllama {

/// What an adapter's numbers depend on beside its tensors. Which modules it changes is read from the tensors' names.
struct AdapterConfig {
  static constexpr std::size_t most_rank = 4096;
  enum class Bias { none, lora_only, all };
  /// A value of the modules whose path a regular expression matches.
  struct PatternValue {
    std::string pattern;
    double value = 0;
  };

  std::string file;
  std::size_t rank = 8;                                   ///< r
  double alpha = 8;                                       ///< lora_alpha
  std::vector<PatternValue> rank_pattern, alpha_pattern;  ///< in the order of the file, whose first match counts
  bool rank_stabilised = false;                           ///< use_rslora
  bool magnitudes = false;                                ///< use_dora
  bool lora_bias = false;                                 ///< the second product has a bias
  Bias bias = Bias::none;                                 ///< whether the adapter has biases of the base, trained
  std::vector<std::string> modules_to_save;               ///< ends of the paths of modules that the adapter replaces
  std::vector<std::string> notices;                       ///< lines about what is ignored although it may matter, 20 at most
};

namespace detail {

/// Fields on which nothing depends when an adapter is used.
inline constexpr auto ignored_adapter_fields = std::to_array<std::string_view>(
    {"auto_mapping", "base_model_name_or_path", "corda_config", "ensure_weight_tying", "eva_config", "exclude_modules",
     "inference_mode", "layers_pattern", "layers_to_transform", "loftq_config", "lora_dropout", "lora_ga_config", "megatron_core",
     "peft_version", "qalora_group_size", "revision", "runtime_config", "target_modules", "task_type"});

/// Fields that, where they are set, make of an adapter something else than low-rank changes of this model's matrices.
inline constexpr auto refused_adapter_fields = std::to_array<std::string_view>(
    {"alora_invocation_tokens", "arrow_config", "kasa_config", "layer_replication", "megatron_config", "monteclora_config",
     "target_parameters", "trainable_token_indices", "use_bdlora", "use_qalora", "velora_config"});

/// Ways to initialise an adapter that changed the base: without the same change, its tensors are differences to something else.
inline constexpr auto base_changing_initialisations =
    std::to_array<std::string_view>({"corda", "loftq", "lora_ga", "olora", "pissa"});

/// Neither absent nor null, false or empty.
inline bool is_set(const JsonField& field) {
  const std::string_view text = field.view().text();
  const bool is_container = field.is_array() || field.is_object();
  return field.present() && text != "false" && !(is_container && text.find_first_not_of(" \n\r\t", 1) == text.size() - 1);
}

inline std::vector<AdapterConfig::PatternValue> read_patterns(const JsonField& field, bool of_ranks) {
  constexpr std::size_t most = 2048;
  std::vector<AdapterConfig::PatternValue> patterns;
  if (!field.present()) return patterns;
  field.view(JsonView::Kind::object, "an object of patterns and values").for_each_member([&](JsonView key, JsonView value) {
    if (patterns.size() == most) field.fail(concat("at most ", most, " patterns"));
    const JsonField member = field.member(key.string(), value);
    patterns.push_back({key.string(), of_ranks ? static_cast<double>(member.integer<std::size_t>(1, AdapterConfig::most_rank))
                                               : member.as<double>()});
  });
  return patterns;
}

inline AdapterConfig::Bias read_bias(const JsonField& field) {
  const auto word = field.as<std::string>("none");
  if (word == "none") return AdapterConfig::Bias::none;
  if (word == "lora_only") return AdapterConfig::Bias::lora_only;
  if (word != "all") field.fail(R"("none", "lora_only" or "all")");
  return AdapterConfig::Bias::all;
}

}  // namespace detail

/// Errors:  file_error; format_error for a field of another type; config_error for an adapter that is none of LoRA's, or of one of its
///          variants that change the forward pass otherwise than by low-rank changes and magnitudes.
/// Source:  PEFT's LoraConfig, release 0.21.2
[[nodiscard]] inline AdapterConfig read_adapter_config(const std::string& file) {
  const JsonFile document(file);
  const JsonField& root = document.root();
  AdapterConfig config;
  config.file = file;

  if (const JsonField type = root["peft_type"]; !type.present() || type.as<std::string>() != "LORA") {
    type.fail<config_error>("\"LORA\"", "adapters of other kinds are not supported");
  }
  for (const std::string_view key : detail::refused_adapter_fields) {
    if (const JsonField field = root[key]; detail::is_set(field)) {
      field.fail<config_error>("null", "adapters of this kind are not supported");
    }
  }
  if (const JsonField how = root["init_lora_weights"]; how.view().kind() == JsonView::Kind::string) {
    const auto word = how.as<std::string>();
    if (std::ranges::any_of(detail::base_changing_initialisations,
                            [&](std::string_view start) { return word.starts_with(start); })) {
      how.fail<config_error>("an initialisation that leaves the base as it is",
                             "save the adapter with PEFT's path_initial_model_for_weight_conversion");
    }
  }

  config.rank = root["r"].present() ? root["r"].integer<std::size_t>(1, AdapterConfig::most_rank) : config.rank;
  config.alpha = root["lora_alpha"].as<double>(config.alpha);
  config.rank_pattern = detail::read_patterns(root["rank_pattern"], true);
  config.alpha_pattern = detail::read_patterns(root["alpha_pattern"], false);
  config.rank_stabilised = root["use_rslora"].as<bool>(false);
  config.magnitudes = root["use_dora"].as<bool>(false);
  config.lora_bias = root["lora_bias"].as<bool>(false);
  if (config.magnitudes && config.lora_bias) root["lora_bias"].fail<config_error>("false, because use_dora is true");
  config.bias = detail::read_bias(root["bias"]);
  if (const JsonField saved = root["modules_to_save"]; saved.present()) {
    for (const JsonField& module : saved.elements(256)) config.modules_to_save.push_back(module.as<std::string>());
  }

  constexpr auto read =
      std::to_array<std::string_view>({"peft_type", "init_lora_weights", "r", "lora_alpha", "rank_pattern", "alpha_pattern",
                                       "use_rslora", "use_dora", "lora_bias", "bias", "modules_to_save"});
  const auto notice = [&](std::string field, std::string note) {
    constexpr std::size_t most = 20;
    if (config.notices.size() < most)
      config.notices.emplace_back(error(Fault{.file = file, .field = std::move(field), .note = std::move(note)}).what());
  };
  root.view().for_each_member([&](JsonView key, JsonView value) {
    const std::string name = key.string();
    const auto is_in = [&](const auto& names) { return std::ranges::find(names, name) != names.end(); };
    if (name == "fan_in_fan_out") {
      if (value.text() == "true") notice(name, "ignored, since the model's matrices are (out, in)");
    } else if (!is_in(read) && !is_in(detail::ignored_adapter_fields) && !is_in(detail::refused_adapter_fields)) {
      notice(name, "unknown field, ignored");
    }
  });
  return config;
}

}  // namespace mllama
