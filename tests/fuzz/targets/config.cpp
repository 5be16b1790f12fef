// SPDX-License-Identifier: MIT
// The settings of a model folder: one text as config.json, generation_config.json and preprocessor_config.json.
#include <array>
#include <filesystem>
#include <mllama/generate/chat.hpp>
#include <mllama/generate/sampler.hpp>
#include <mllama/io/config.hpp>
#include <mllama/io/processor_config.hpp>
#include <mllama/vision/processor.hpp>

#include "fuzz.hpp"
#include "unit/io/temporary_folder.hpp"

using mllama_fuzz::require;
using mllama_fuzz::takes;

namespace {

/// A folder whose generation_config.json is a file in memory.
struct Folder {
  mllama_test::TemporaryFolder folder;
  mllama_fuzz::MemoryFile generation;

  Folder() { std::filesystem::create_symlink(generation.path(), folder / "generation_config.json"); }
};

void check_sizes(const mllama::ModelSizes& sizes) {
  const mllama::TextSizes& text = sizes.text;
  require(text.hidden % text.heads == 0 && text.heads % text.kv_heads == 0, "heads divide the width");
  require(text.cross.size() < static_cast<std::size_t>(text.layers), "a layer attends to text");
  for (const int layer : text.cross) require(layer >= 0 && layer < text.layers, "a layer that attends to the image exists");
  require(text.rope.high_freq_factor > text.rope.low_freq_factor, "rotary frequencies are a range");
  if (!sizes.vision) return;
  const mllama::VisionSizes& vision = *sizes.vision;
  require(vision.hidden % vision.heads == 0 && vision.image_size % vision.patch_size == 0, "heads and patches divide");
  for (const int tap : vision.taps) require(tap >= 0 && tap <= vision.layers, "a tap is a layer");
}

void sample(const mllama::GenerationSettings& settings) {
  mllama::Sampler sampler(mllama::sampling_settings(settings), 1);
  constexpr std::array logits{0.0F, -0.0F, 1.5F, -2.0F, 1.5F, 3e38F, -3e38F, 1e-42F};
  constexpr std::array<std::int32_t, 4> history{2, -1, 6, 1000};
  for (int i = 0; i < 3; ++i) {
    const std::int32_t id = sampler(logits, history);
    require(id >= 0 && static_cast<std::size_t>(id) < logits.size(), "a token of the vocabulary is drawn");
  }
}

void cut_into_tiles(const mllama::ProcessorConfig& config) {
  const mllama::ImageProcessor processor(config);
  const mllama::Image picture(3, 2);
  const mllama::Fit fit = mllama::fit_to_tiles(picture.height, picture.width, config.tile, config.max_tiles);
  require(fit.canvas.tiles() <= config.max_tiles, "a canvas has at most so many tiles");
  // Legal sizes make canvases of up to 400 MB, which would be all that a search does.
  if (config.tile * config.tile * config.max_tiles > 1U << 14U) return;
  const mllama::TileSet set = processor.tiles(picture);
  require(set.pixels.size() == set.num_tiles() * 3 * config.tile * config.tile, "a canvas has all of its pixels");
}

}  // namespace

std::vector<std::string> mllama_fuzz::seeds() {
  std::vector<std::string> files{
      R"({"model_type":"mllama","text_config":{"rope_parameters":{"rope_type":"default","rope_theta":1e4}},"vision_config":{}})",
      R"({"size":{"height":8,"width":8},"max_image_tiles":3,"do_normalize":false,"image_std":[1,2.5,1e-3]})",
      R"({"do_sample":true,"temperature":0.6,"top_k":3,"top_p":0.9,"min_p":0.05,"repetition_penalty":1.2,"eos_token_id":[1,2]})"};
  for (const auto* const file : {"config.json", "generation_config.json", "preprocessor_config.json"})
    files.push_back(repository_file(mllama::concat("examples/pocket/model/", file)));
  for (const auto* const model : {"appendix_a", "nf4_nested", "odd", "ratios"})
    files.push_back(repository_file(mllama::concat("tests/golden/models/", model, "/config.json")));
  return files;
}

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static Folder folder;
  const std::string_view text = mllama_fuzz::text_of(data, size);
  takes([&] { check_sizes(mllama::model_sizes(mllama::parse_json(text, "config.json", mllama::settings_limits))); });
  takes([&] {
    folder.generation.write(text);
    sample(mllama::read_generation_settings(folder.folder.path(), {}));
  });
  takes([&] {
    cut_into_tiles(mllama::processor_config(mllama::parse_json(text, "preprocessor_config.json", mllama::settings_limits)));
  });
  return 0;
}
