// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include <mllama/core/check.hpp>
#include <mllama/io/json_file.hpp>
#include <mllama/vision/processor.hpp>

namespace mllama {

/// preprocessor_config.json. What is absent has the defaults of transformers' MllamaImageProcessor, which are not Llama's.
/// Errors:  format_error if a value has the wrong type or range; config_error if it asks for what the image processor does not do:
///          no resizing or padding, tiles that are not square, another filter than bilinear.
[[nodiscard]] inline ProcessorConfig processor_config(const JsonField& root) {
  if (!root.is_object()) root.fail("an object");
  const auto require = [&root](std::string_view key) {
    if (!root[key].as<bool>(true)) root[key].fail<config_error>("true", "this image processor always does it");
  };
  require("do_resize");
  require("do_pad");
  const JsonField filter = root["resample"];
  if (filter.as<int>(2) != 2) filter.fail<config_error>("2, bilinear");

  ProcessorConfig config;
  const auto side = [&root](std::string_view key) {
    return root["size"][key].integer<std::size_t>(1, ProcessorConfig::most_pixels);
  };
  config.tile = root["size"].present() ? side("height") : 224;
  if (root["size"].present() && side("width") != config.tile) {
    root["size"]["width"].fail<config_error>(concat("the same as the height, ", config.tile), "tiles are square");
  }
  // Absent, it is 4; null is refused, unlike elsewhere.
  if (const JsonField tiles = root["max_image_tiles"]; tiles.present() || tiles.is_null()) {
    config.max_tiles = tiles.integer<std::size_t>(1, ProcessorConfig::most_tiles);
  }
  config.rescale = root["do_rescale"].as<bool>(true);
  config.rescale_factor = root["rescale_factor"].as<double>(1.0 / 255.0);
  config.normalize = root["do_normalize"].as<bool>(true);
  const auto channels = [&root](std::string_view key) {
    std::array<double, 3> values{0.5, 0.5, 0.5};
    if (!root[key].present()) return values;
    const std::vector<JsonField> elements = root[key].elements();
    if (elements.size() != values.size()) root[key].fail("an array of 3");
    for (std::size_t channel = 0; channel < values.size(); ++channel) values[channel] = elements[channel].as<double>();
    return values;
  };
  config.mean = channels("image_mean");
  config.standard_deviation = channels("image_std");
  return config;
}

/// Reads a preprocessor_config.json. Errors:  those of JsonFile and of processor_config.
[[nodiscard]] inline ProcessorConfig read_processor_config(const std::string& path) {
  return processor_config(JsonFile(path).root());
}

}  // namespace mllama
