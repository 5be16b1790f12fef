// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include <mllama/core/check.hpp>
#include <mllama/core/visit.hpp>
#include <mllama/generate/model_sizes.hpp>
#include <mllama/generate/picture.hpp>
#include <mllama/io/checkpoint.hpp>
#include <mllama/io/config.hpp>
#include <mllama/io/processor_config.hpp>
#include <mllama/models/mllama/mllama.hpp>
#include <mllama/models/mllama/models.hpp>
#include <mllama/text/chat_template.hpp>
#include <mllama/text/tokenizer.hpp>
#include <mllama/vision/processor.hpp>

/// A model folder as Hugging Face saves it, loaded as a model type.

namespace mllama {

/// What of a model a folder has.
enum class ModelPart {
  all,
  text,  ///< the language model with its head, as transformers' MllamaForCausalLM saves it
};

/// Calls `use(key, parameter)` for every parameter of a part, with its canonical key.
template <class Model>
void for_each_parameter_of(ModelPart part, Model& model, auto&& use) {
  const auto canonical = [&](const std::string& key, auto& parameter) { use(canonical_name(key), parameter); };
  part == ModelPart::all ? for_each_parameter(model, canonical) : for_each_parameter(model.language_model, canonical);
}

/// Points the parameters of a model, or of its text part, at their tensors in a checkpoint, which must outlive the model's use. A
/// tied head that the checkpoint lacks is the embedding.
/// Errors:  shape_error for a missing, misshapen or left-over tensor.
template <class Model>
void bind_weights(Model& model, Checkpoint& checkpoint, ModelPart part = ModelPart::all, bool tied_head = false) {
  const bool has_head = checkpoint.find("lm_head.weight") != nullptr;
  check<shape_error>(has_head || tied_head, [&] {
    return Fault{.file = checkpoint.folder(),
                 .field = "lm_head.weight",
                 .expected = "the head, which makes logits",
                 .found = "none of this name",
                 .note = "a base MllamaModel is saved without it"};
  });
  for_each_parameter_of(part, model, [&](std::string_view key, auto& parameter) {
    using Leaf = std::remove_cvref_t<decltype(parameter)>;
    checkpoint.bind(parameter.weights, has_head || key != "lm_head.weight" ? key : "embed_tokens.weight", Leaf::shape);
  });
  const auto unused = checkpoint.unused();
  check<shape_error>(unused.empty(), [&] {
    return Fault{.file = checkpoint.folder(),
                 .field = std::string(unused.front()),
                 .expected = "only tensors of the model type",
                 .found = concat(unused.size(), " left over")};
  });
}

/// A model and the files that its weights lie in.
template <class Model>
struct Weighted {
  Checkpoint files;
  std::unique_ptr<Model> model;
};

/// The part of a model that a folder's configuration describes.
[[nodiscard]] inline ModelPart part_of(const ModelSizes& sizes) noexcept { return sizes.vision ? ModelPart::all : ModelPart::text; }

namespace detail {

template <class F>
void set_outlier_threshold(Weights<F>& weights, float threshold) {
  if constexpr (requires { weights.outlier_threshold; }) {
    weights.outlier_threshold = threshold;
  } else if constexpr (requires { weights.stored; }) {
    std::visit([&](auto& stored) { set_outlier_threshold(stored, threshold); }, weights.stored);
  }
}

}  // namespace detail

/// The weights of a folder, without tokenizer and processor. Of a save of the text model alone, the model's vision part stays empty.
/// Errors:  file_error, format_error, config_error, shape_error
template <class Model>
[[nodiscard]] Weighted<Model> load_weights(const std::string& folder) {
  const ModelSizes sizes = read_model_sizes(folder);
  if (auto difference = config_difference<Model>(sizes)) throw config_error(std::move(*difference));
  Weighted<Model> loaded{Checkpoint::open(folder), std::make_unique<Model>()};
  bind_weights(*loaded.model, loaded.files, part_of(sizes), sizes.text.tied_head);
  for_each_parameter(*loaded.model, [&](const std::string&, auto& parameter) {
    detail::set_outlier_threshold(parameter.weights, static_cast<float>(sizes.quantization.int8_threshold));
  });
  return loaded;
}

/// A folder, loaded: weights, and what else a conversation needs.
template <class Model>
struct Pretrained {
  std::string folder;
  ModelSizes sizes;
  GenerationSettings generation;
  Weighted<Model> weights;
  std::optional<Tokenizer> tokenizer;         ///< none if the folder has no tokenizer.json
  std::optional<ImageProcessor> processor;    ///< none if the folder has no preprocessor_config.json or no vision model
  std::optional<ChatTemplate> chat_template;  ///< none if the folder has none, as base models

  [[nodiscard]] const Model& model() const noexcept { return *weights.model; }

  /// A picture's keys and values, to be shared by any number of conversations.
  /// Errors:  input_error for a picture that cannot be cut into tiles, and if the folder has no vision model.
  template <class Ctx>
  [[nodiscard]] Picture<Model> encode(const Image& image, Ctx& ctx, const Numerics& numerics = Model::numerics) const {
    model().require_vision("images");
    return encode_picture(model(), require(processor, "preprocessor_config.json"), image, ctx, numerics);
  }

  /// A part that the folder may lack.
  /// Errors:  file_error that names the missing file.
  template <class Part>
  [[nodiscard]] const Part& require(const std::optional<Part>& part, std::string_view file) const {
    check<file_error>(part.has_value(),
                      [&] { return Fault{.file = concat(folder, "/", file), .expected = "a file", .found = "none"}; });
    return *part;
  }
};

namespace detail {

/// The chat template's text, from the first of the places where releases of transformers put it.
template <class = void>  // see read_tokenizer
std::optional<ChatTemplate> read_chat_template(const std::string& folder) {
  if (const std::string file = folder + "/chat_template.jinja"; exists(file))
    return chat_template_of(MappedFile(file).text(), file);
  for (const std::string_view name : {"/chat_template.json", "/tokenizer_config.json"}) {
    const std::string file = concat(folder, name);
    if (!exists(file)) continue;
    const JsonFile document(file);
    if (const JsonField field = document.root()["chat_template"]; field.present()) {
      return chat_template_of(field.as<std::string>(), file);
    }
  }
  return std::nullopt;
}

/// None if the folder has no tokenizer.json.
template <class = void>  // a template, so that readers are compiled where they are used and not with every include
std::optional<Tokenizer> read_tokenizer(const std::string& folder, std::size_t embeddings) {
  const std::string file = folder + "/tokenizer.json";
  if (!exists(file)) return std::nullopt;
  std::optional<Tokenizer> tokenizer = Tokenizer::from_file(file);
  check<config_error>(tokenizer->size() <= embeddings, [&] {
    return Fault{.file = file, .expected = concat("at most ", embeddings, " tokens"), .found = concat(tokenizer->size())};
  });
  return tokenizer;
}

/// None if the folder has no preprocessor_config.json.
template <class = void>  // see read_tokenizer
std::optional<ImageProcessor> read_processor(const std::string& folder, const VisionSizes& sizes) {
  const std::string file = folder + "/preprocessor_config.json";
  if (!exists(file)) return std::nullopt;
  const ProcessorConfig config = read_processor_config(file);
  const auto same = [&](std::string_view field, int expected, std::size_t found) {
    check<config_error>(std::cmp_equal(expected, found), [&] {
      return Fault{.file = file,
                   .field = std::string(field),
                   .expected = concat(expected),
                   .found = concat(found),
                   .note = "the file does not belong to this model type"};
    });
  };
  same("size", sizes.image_size, config.tile);
  same("max_image_tiles", sizes.max_tiles, config.max_tiles);
  return ImageProcessor(config);
}
#if defined(MLLAMA_ELSEWHERE)
extern template std::optional<ChatTemplate> read_chat_template<>(const std::string&);
extern template std::optional<Tokenizer> read_tokenizer<>(const std::string&, std::size_t);
extern template std::optional<ImageProcessor> read_processor<>(const std::string&, const VisionSizes&);
#endif

}  // namespace detail

/// Loads a folder as Hugging Face saves it. Weights stay in the mapped files.
/// Errors:  file_error, format_error, config_error, shape_error; each names the file, and what in it.
template <class Model>
[[nodiscard]] Pretrained<Model> load(const std::string& folder) {
  Pretrained<Model> loaded{.folder = folder,
                           .sizes = read_model_sizes(folder),
                           .generation = {},
                           .weights = load_weights<Model>(folder),
                           .tokenizer = detail::read_tokenizer(folder, Model::Text::vocab + Model::Text::extra_embeddings),
                           .processor = {},
                           .chat_template = detail::read_chat_template(folder)};
  loaded.generation = read_generation_settings(folder, loaded.sizes.text);
  if (loaded.sizes.vision) loaded.processor = detail::read_processor(folder, *loaded.sizes.vision);
  return loaded;
}

/// Calls `use(std::type_identity<Model>{})` with the first model type of a list that has this configuration.
/// Errors:  config_error if there is none.
template <class Use, class... Choices>
void with_model_of(const ModelSizes& sizes, Models<Choices...>, Use&& use) {
  const auto try_model = [&]<class Model>(std::type_identity<Model> model) {
    if (config_difference<Model>(sizes)) return false;
    use(model);
    return true;
  };
  if ((try_model(std::type_identity<Choices>{}) || ...)) return;
  std::string names;
  ((names += concat(names.empty() ? "" : ", ", Choices::name)), ...);
  throw config_error(Fault{.file = sizes.file,
                           .expected = concat("a model that is built in (", names, ")"),
                           .found = "another",
                           .note = concat("build the programs with -DMLLAMA_MODELS=", sizes.file)});
}
/// The same with the configuration of a folder.
/// Errors:  those of read_model_sizes, too
template <class List, class Use>
void with_model_of(const std::string& folder, List choices, Use&& use) {
  with_model_of(read_model_sizes(folder), choices, std::forward<Use>(use));
}

}  // namespace mllama
