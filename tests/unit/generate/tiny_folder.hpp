// SPDX-License-Identifier: MIT
#pragma once

#include <filesystem>
#include <fstream>
#include <iterator>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <mllama/generate/pretrained.hpp>
#include <mllama/io/safetensors_writer.hpp>
#include <unit/io/temporary_folder.hpp>
#include <unit/models/tiny.hpp>

namespace mllama_test {

inline constexpr std::string_view tiny_config = R"({
  "model_type": "mllama", "image_token_index": 513,
  "vision_config": {
    "hidden_size": 12, "intermediate_size": 20, "attention_heads": 2, "num_hidden_layers": 3, "num_global_layers": 2,
    "image_size": 28, "patch_size": 14, "max_num_tiles": 2, "intermediate_layers_indices": [0, 1],
    "supported_aspect_ratios": [[1, 1], [1, 2], [2, 1]], "vision_output_dim": 36
  },
  "text_config": {
    "vocab_size": 513, "hidden_size": 24, "intermediate_size": 40, "num_attention_heads": 4, "num_key_value_heads": 2,
    "num_hidden_layers": 5, "cross_attention_layers": [1, 3], "max_position_embeddings": 200,
    "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                     "original_max_position_embeddings": 8192}
  }
})";

/// A parameter as it is written to a file, for a test to damage.
struct SavedTensor {
  std::string name;
  std::vector<std::size_t> shape;
  std::vector<float> values;
};

template <class Model>
std::vector<SavedTensor> saved_tensors(const Model& model) {
  std::vector<SavedTensor> tensors;
  mllama::for_each_parameter(model, [&](const std::string& key, const auto& parameter) {
    using P = std::remove_cvref_t<decltype(parameter)>;
    SavedTensor tensor{key, {P::shape.begin(), P::shape.end()}, std::vector<float>(P::size)};
    parameter.weights.decode(0, tensor.values);
    tensors.push_back(std::move(tensor));
  });
  return tensors;
}

inline void save(const std::string& path, std::span<const SavedTensor> tensors) {
  std::vector<mllama::FileTensor> files;
  for (const SavedTensor& tensor : tensors) {
    files.push_back({tensor.name, mllama::Dtype::F32, tensor.shape, std::as_bytes(std::span(tensor.values))});
  }
  mllama::write_safetensors(path, files);
}

inline std::string replaced(std::string text, std::string_view what, std::string_view with) {
  return text.replace(text.find(what), what.size(), with);
}

/// A random model as Hugging Face would save it, with one of the golden tokenizers.
class TinyFolder : public TemporaryFolder {
 public:
  explicit TinyFolder(std::uint32_t seed) : random(mllama::random_weights<Tiny>(seed)) {
    write("config.json", tiny_config);
    write("generation_config.json", R"({"eos_token_id": [503, 511], "max_new_tokens": 12})");
    write(
        "preprocessor_config.json",
        R"({"size": {"height": 28, "width": 28}, "max_image_tiles": 2, "image_mean": [0.4, 0.5, 0.6], "image_std": [0.3, 0.3, 0.2]})");
    std::ifstream tokenizer(MLLAMA_TEST_DATA "/golden/tokenizer/small/tokenizer.json", std::ios::binary);
    write("tokenizer.json", std::string{std::istreambuf_iterator<char>(tokenizer), {}});
    save(*this / "model.safetensors", saved_tensors(*random.model));
  }

  mllama::RandomModel<Tiny> random;
};

/// A save of the same model's text part alone, as transformers' MllamaForCausalLM makes it.
class TextOnlyFolder : public TinyFolder {
 public:
  explicit TextOnlyFolder(std::uint32_t seed) : TinyFolder(seed) {
    const std::string_view text_config = tiny_config.substr(tiny_config.find("\"vocab_size\""));
    write("config.json", mllama::concat(R"({"model_type": "mllama_text_model", )", text_config.substr(0, text_config.rfind('}'))));
    std::filesystem::remove(*this / "preprocessor_config.json");
    std::vector<SavedTensor> tensors;
    for (SavedTensor& tensor : saved_tensors(*random.model)) {
      constexpr std::string_view prefix = "language_model.";
      if (!tensor.name.starts_with(prefix)) continue;
      tensor.name.erase(0, prefix.size());
      tensors.push_back(std::move(tensor));
    }
    save(*this / "model.safetensors", tensors);
  }
};

/// A picture with a gradient that depends on the seed.
inline mllama::Image gradient(std::size_t width, std::size_t height, std::size_t seed) {
  mllama::Image picture(width, height);
  for (std::size_t i = 0; i < picture.pixels.size(); ++i) picture.pixels[i] = static_cast<std::uint8_t>(i * (seed + 3) / 7);
  return picture;
}

}  // namespace mllama_test
