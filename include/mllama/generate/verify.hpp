// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <iterator>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include <mllama/core/check.hpp>
#include <mllama/core/format.hpp>
#include <mllama/core/visit.hpp>
#include <mllama/generate/adapter_file.hpp>
#include <mllama/generate/pretrained.hpp>
#include <mllama/io/checkpoint.hpp>
#include <mllama/io/config.hpp>
#include <mllama/io/elements.hpp>
#include <mllama/io/json_file.hpp>
#include <mllama/io/model_files.hpp>
#include <mllama/io/safetensors.hpp>
#include <mllama/models/mllama/models.hpp>

/// A model folder, checked completely and without running it: what is wrong, all of it and not only the first.

namespace mllama {

/// What was found out about a folder.
struct Verification {
  std::vector<std::string> problems;  ///< a line each, up to `most_problems`
  std::vector<std::string> notices;   ///< what is not wrong, but may surprise
  std::size_t tensors = 0, bytes = 0;

  static constexpr std::size_t most_problems = 1000;
};

/// How much is read.
enum class VerifyDepth {
  quick,    ///< headers, configurations, and the scales of quantised tensors
  complete  ///< all: float tensors must be finite
};

namespace detail {

/// Elements whose exponent is all ones: NaN and infinities. The bytes need not be aligned.
template <class Bits>
std::size_t count_non_finite(std::span<const std::byte> bytes, Bits exponent) {
  std::size_t count = 0;
  for (std::size_t at = 0; at + sizeof(Bits) <= bytes.size(); at += sizeof(Bits)) {
    Bits bits;
    std::memcpy(&bits, bytes.data() + at, sizeof bits);
    count += (bits & exponent) == exponent ? 1U : 0U;
  }
  return count;
}
inline std::size_t count_non_finite(Dtype dtype, std::span<const std::byte> bytes) {
  switch (dtype) {
    case Dtype::F16:
      return count_non_finite<std::uint16_t>(bytes, 0x7c00U);
    case Dtype::BF16:
      return count_non_finite<std::uint16_t>(bytes, 0x7f80U);
    case Dtype::F32:
      return count_non_finite<std::uint32_t>(bytes, 0x7f800000U);
    case Dtype::F64:
      return count_non_finite<std::uint64_t>(bytes, 0x7ff0000000000000U);
    default:
      return 0;
  }
}

/// The linears of a model by how they are stored: what a quantisation's settings are compared with.
class StoredLinears {
 public:
  template <class F>
  void add(std::string_view module, const Weights<F>& weights) {
    with_format(weights, [&]<class G>(const Weights<G>& stored) {
      if constexpr (BlockFormat<G>) {
        four_bit_.emplace_back(module);
        (quant_type<G>() == "nf4" ? nf4_ : fp4_).emplace_back(module);
        (stored.absmax == nullptr ? nested_ : plain_).emplace_back(module);
      } else if constexpr (RowFormat<G>) {
        eight_bit_.emplace_back(module);
      } else {
        float_.emplace_back(module);
      }
    });
  }

  /// What the settings say otherwise. The tensors count, so that none of it is a problem.
  [[nodiscard]] std::vector<std::string> contradictions(const QuantizationSettings& settings) const {
    std::vector<std::string> notices;
    const auto note = [&](std::string_view setting, const Modules& modules, std::string_view what) {
      if (modules.empty()) return;
      const std::string_view plural = modules.size() == 1 ? " linear is " : " linears are ";
      notices.push_back(concat(setting, ", but ", modules.size(), plural, what, ", as ", modules.front()));
    };
    if (settings.method.empty()) {
      note("no quantization_config", four_bit_, "of 4 bits");
      note("no quantization_config", eight_bit_, "of 8 bits");
      return notices;
    }
    const auto kind = [&](std::string_view setting, bool stated, const Modules& modules, std::string_view what) {
      if (!stated) note(concat(setting, " is false"), modules, what);
      if (stated && modules.empty()) notices.push_back(concat(setting, " is true, but no linear is ", what));
    };
    kind("load_in_4bit", settings.four_bit, four_bit_, "of 4 bits");
    kind("load_in_8bit", settings.eight_bit, eight_bit_, "of 8 bits");
    note(concat("bnb_4bit_quant_type is ", settings.type), settings.type == "nf4" ? fp4_ : nf4_,
         settings.type == "nf4" ? "FP4" : "NF4");
    note(concat("bnb_4bit_use_double_quant is ", settings.nested), settings.nested ? plain_ : nested_,
         settings.nested ? "with plain scales" : "with nested scales");

    const auto is_skipped = [&](const std::string& module) {
      return std::ranges::any_of(settings.skip_modules, [&](std::string_view entry) { return names_module(entry, module); });
    };
    const auto among = [&](std::initializer_list<const Modules*> lists, bool skipped) {
      Modules found;
      for (const Modules* const list : lists) {
        std::ranges::copy_if(*list, std::back_inserter(found), [&](const std::string& m) { return is_skipped(m) == skipped; });
      }
      return found;
    };
    note("llm_int8_skip_modules names them", among({&four_bit_, &eight_bit_}, true), "quantised");
    note("llm_int8_skip_modules does not name them", among({&float_}, false), "float");
    return notices;
  }

 private:
  using Modules = std::vector<std::string>;

  /// Whether an entry of a skip list stands for a module. Entries have the names of the release that made the file.
  /// Source:  transformers 4, `should_convert_module` of its bitsandbytes integration
  static bool names_module(std::string_view entry, std::string_view module) {
    if (const std::string_view canonical = canonical_name(entry); canonical.size() != entry.size()) {
      return module.starts_with(canonical) && (module.size() == canonical.size() || module[canonical.size()] == '.');
    }
    return module == entry || module.ends_with(concat('.', entry)) || module.find(concat(entry, '.')) != std::string_view::npos;
  }

  Modules four_bit_, nf4_, fp4_, nested_, plain_, eight_bit_, float_;
};

/// Goes through a folder and notes what is wrong.
template <class = void>  // a template, so that bodies are compiled where they are used and not with every include
class BasicVerifier {
 public:
  explicit BasicVerifier(std::string folder) : folder_(std::move(folder)) {}

  template <class... Choices>
  [[nodiscard]] Verification verify(Models<Choices...> choices, VerifyDepth depth) {
    if (here("adapter_config.json") && !here("config.json")) {
      verify_adapter(depth);
      return std::move(result_);
    }
    std::optional<ModelSizes> sizes;
    attempt([&] { sizes = read_model_sizes(folder_); });
    std::vector<Fault> faults;
    attempt([&] {
      Checkpoint checkpoint(ModelFiles::open(folder_, &faults));
      for (const Fault& fault : std::exchange(faults, {})) add(fault);
      result_.tensors = checkpoint.tensors().size();
      result_.bytes = checkpoint.mapped_bytes();
      if (!checkpoint.complete()) notice(concat(folder_, ": tensors that may be in files that cannot be read are not listed"));
      const bool known = sizes && verify_as_one_of(choices, *sizes, checkpoint);
      if (!known) verify_quantized(checkpoint);
      if (sizes && !known) {
        notice(concat(sizes->file, ": no model type that is built in; names and shapes were not compared"));
      }
      if (sizes && checkpoint.complete()) {
        for (const std::string& text : linears_.contradictions(sizes->quantization)) notice(concat(sizes->file, ": ", text));
      }
      if (depth == VerifyDepth::complete) verify_floats(checkpoint);
    });
    for (const Fault& fault : faults) add(fault);
    if (here("model.safetensors") && here("model.safetensors.index.json")) {
      notice(concat(folder_, "/model.safetensors.index.json: not used, because there is a model.safetensors"));
    }
    verify_settings(sizes);
    return std::move(result_);
  }

 private:
  [[nodiscard]] bool here(std::string_view file) const { return exists(concat(folder_, '/', file)); }

  void add(const Fault& fault) {
    std::string line = error(fault).what();
    if (std::ranges::find(result_.problems, line) != result_.problems.end()) return;
    if (result_.problems.size() < Verification::most_problems) {
      result_.problems.push_back(std::move(line));
    } else if (!std::exchange(is_full_, true)) {
      notice(concat("more problems than ", Verification::most_problems, "; the others are not listed"));
    }
  }
  void notice(std::string text) { result_.notices.push_back(std::move(text)); }

  template <class Action>
  void attempt(Action&& action) {
    try {
      action();
    } catch (const error& problem) {
      add(problem.fault());
    }
  }

  /// False if the folder is none of the models.
  template <class... Choices>
  bool verify_as_one_of(Models<Choices...>, const ModelSizes& sizes, Checkpoint& checkpoint) {
    [[maybe_unused]] const auto try_model = [&]<class Model>(std::type_identity<Model>) {
      if (config_difference<Model>(sizes)) return false;
      verify_parameters<Model>(part_of(sizes), checkpoint);
      return true;
    };
    return (try_model(std::type_identity<Choices>{}) || ...);
  }

  template <class Model>
  void verify_parameters(ModelPart part, Checkpoint& checkpoint) {
    const auto model = std::make_unique<Model>();
    for_each_parameter_of(part, *model, [&](std::string_view key, auto& parameter) {
      using Leaf = std::remove_cvref_t<decltype(parameter)>;
      if (!checkpoint.complete() && checkpoint.find(key) == nullptr) return;
      attempt([&] {
        Elements elements;
        Weights<typename Leaf::format> weights;
        checkpoint.bind(weights, key, Leaf::shape, elements);
        if constexpr (std::is_same_v<typename Leaf::format, Stored>) linears_.add(module_of(key), weights);
      });
    });
    for (const std::string_view name : checkpoint.unused()) {
      const TensorOfFile& stored = checkpoint.find(name)->stored;
      attempt([&] { stored.fail<shape_error>("only tensors of the model type", "one that is left over"); });
    }
  }

  /// Of a model whose names and shapes are not known: what quantised tensors say about themselves.
  void verify_quantized(Checkpoint& checkpoint) {
    for (const ModelTensor& tensor : checkpoint.tensors()) {
      if (!is_code(checkpoint, tensor)) continue;
      attempt([&] {
        Elements elements;
        Weights<Stored> weights;
        Shape shape = checkpoint.own_shape(tensor);
        if (shape.empty()) shape = {1, 2 * tensor.stored.tensor->bytes.size()};  // the model's is not known: as one row
        checkpoint.bind(weights, tensor.name, shape, elements);
        linears_.add(module_of(tensor.name), weights);
      });
    }
    for (const std::string_view name : checkpoint.unused()) {
      const std::size_t end = name.find(".weight.");
      const std::string_view rest = end == std::string_view::npos ? "" : name.substr(end + 1);
      if (rest.empty() || checkpoint.find(name.substr(0, end + 7)) != nullptr) continue;
      const TensorOfFile& stored = checkpoint.find(name)->stored;
      attempt([&] { stored.fail(concat("a tensor ", name.substr(0, end + 7), " beside this part of it"), "none of this name"); });
    }
  }

  /// Whether a tensor holds codes, whatever its element type says.
  [[nodiscard]] static bool is_code(const Checkpoint& checkpoint, const ModelTensor& tensor) {
    return tensor.name.ends_with(".weight") &&
           (tensor.dtype == Dtype::I8 || !checkpoint.with_prefix(concat(tensor.name, '.')).empty());
  }
  /// Whether a tensor is a part of another one, which is checked with it.
  [[nodiscard]] static bool is_part(std::string_view name) {
    return name.find(".weight.") != std::string_view::npos || name.ends_with(".SCB");
  }
  [[nodiscard]] static std::string_view module_of(std::string_view key) { return key.substr(0, key.rfind('.')); }

  void verify_floats(const Checkpoint& checkpoint) {
    for (const ModelTensor& tensor : checkpoint.tensors()) {
      if (is_code(checkpoint, tensor) || is_part(tensor.name)) continue;
      verify_finite(tensor.stored);
      if (const auto* const joined = std::get_if<JoinedRows>(&tensor.rearrangement)) verify_finite(joined->rest);
    }
  }
  void verify_finite(const TensorOfFile& stored) {
    std::size_t count = 0;
    constexpr std::size_t piece = std::size_t{16} << 20U;  // whole elements of every type
    for (std::span<const std::byte> rest = stored.tensor->bytes; !rest.empty();) {
      const auto bytes = rest.first(std::min(piece, rest.size()));
      count += count_non_finite(stored.tensor->dtype, bytes);
      MappedFile::forget(bytes);
      rest = rest.subspan(bytes.size());
    }
    if (count == 0) return;
    attempt([&] { stored.fail("finite numbers", concat(count, " of ", stored.tensor->size(), " that are NaN or infinite")); });
  }

  /// What belongs to a model beside its weights.
  void verify_settings(const std::optional<ModelSizes>& sizes) {
    attempt([&] { static_cast<void>(read_generation_settings(folder_, sizes ? sizes->text : TextSizes{})); });
    attempt([&] { static_cast<void>(read_chat_template(folder_)); });
    const int embeddings = sizes ? sizes->text.vocab + 8 : largest_vocab;
    attempt([&] { static_cast<void>(read_tokenizer(folder_, static_cast<std::size_t>(embeddings))); });
    attempt([&] {
      if (!sizes && here("preprocessor_config.json")) {
        static_cast<void>(read_processor_config(folder_ + "/preprocessor_config.json"));
      }
      if (sizes && sizes->vision) static_cast<void>(read_processor(folder_, *sizes->vision));
    });
  }

  /// An adapter of PEFT: only its base tells whether its tensors fit.
  void verify_adapter(VerifyDepth depth) {
    attempt([&] {
      const JsonFile config(folder_ + "/adapter_config.json");
      notice(concat(folder_, ": an adapter of ", config.root()["base_model_name_or_path"].as<std::string>("an unnamed model"),
                    "; whether it fits is checked when it is loaded with its base"));
    });
    attempt([&] {
      const AdapterFile adapter(folder_);
      for (const std::string& text : adapter.config().notices) notice(text);
    });
    if (!here("adapter_model.safetensors")) return;
    attempt([&] {
      const std::string path = folder_ + "/adapter_model.safetensors";
      const Safetensors file(path);
      result_.tensors = file.tensors().size();
      for (const FileTensor& tensor : file.tensors()) {
        result_.bytes += tensor.bytes.size();
        if (depth == VerifyDepth::complete) verify_finite({&tensor, path});
      }
    });
  }

  std::string folder_;
  Verification result_;
  StoredLinears linears_;
  bool is_full_ = false;
};

}  // namespace detail

/// Checks a folder as far as it can be checked without running it: every rule of its files' formats, index against shards, names,
/// shapes and element types against the configuration, the parts of every quantised tensor, and the files for text and pictures.
/// Goes on after a problem. A folder of a model type that is not in the list is checked but for names and shapes; one with an
/// adapter of PEFT as a file.
/// Costs:   with VerifyDepth::complete, reads every float tensor, in pieces of a few megabytes; of Meta's layout, memory for the
///          tensors that are rearranged, one at a time
template <class... Choices>
[[nodiscard]] Verification verify_folder(const std::string& folder, Models<Choices...> choices,
                                         VerifyDepth depth = VerifyDepth::complete) {
  return detail::BasicVerifier<>(folder).verify(choices, depth);
}

}  // namespace mllama
