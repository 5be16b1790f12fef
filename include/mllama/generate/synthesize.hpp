// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <mllama/core/check.hpp>
#include <mllama/core/thread_pool.hpp>
#include <mllama/core/visit.hpp>
#include <mllama/generate/model_sizes.hpp>
#include <mllama/generate/synthetic_tensors.hpp>
#include <mllama/io/checkpoint.hpp>
#include <mllama/io/checkpoint_writer.hpp>
#include <mllama/io/config_text.hpp>
#include <mllama/text/chat_template.hpp>
#include <mllama/text/invented_tokenizer.hpp>

/// Checkpoints of made-up weights, complete as Hugging Face saves them: to see at full size what a model costs, without its weights.

namespace mllama {

struct SynthesisSettings {
  LinearStorage storage = LinearStorage::nf4;
  bool nested = true;  ///< 4-bit scales are quantised themselves
  std::uint64_t seed = 0;
  unsigned threads = 0;  ///< 0: as many as the machine runs at once
};

struct SynthesisReport {
  std::size_t tensors = 0;         ///< of the files
  std::size_t bytes = 0;           ///< of all tensors
  bool has_tokenizer = false;      ///< false if the vocabulary has no room for bytes and special tokens
  std::vector<std::string> rests;  ///< see OutputFolder::rests
};

namespace detail {

/// The name that a storage's format has.
[[nodiscard]] constexpr std::string_view format_name(LinearStorage storage) noexcept {
  switch (storage) {
    case LinearStorage::nf4:
      return NF4::name;
    case LinearStorage::fp4:
      return FP4::name;
    case LinearStorage::int8:
      return Int8::name;
    case LinearStorage::bf16:
      break;
  }
  return BF16::name;
}

/// The parameters of a model type under the names that files give them. Those that are quantised are matrices whose nominal format
/// is not a float type: embeddings and the head stay as they are.
/// Errors:  input_error if a parameter can be stored neither in this way nor in bfloat16.
template <class Model>
[[nodiscard]] std::vector<SyntheticParameter> synthetic_parameters(LinearStorage storage) {
  static constexpr Model model{};
  std::vector<SyntheticParameter> parameters;
  for_each_parameter(model, [&](const std::string& name, const auto& parameter) {
    using Leaf = std::remove_cvref_t<decltype(parameter)>;
    const auto takes = [](std::string_view format) {
      return FormatList<typename Leaf::format>::any([&]<class F>() { return F::name == format; });
    };
    constexpr bool is_linear = Leaf::shape.size() == 2 && !DenseFormat<nominal_format<typename Leaf::format>>;
    const bool is_quantized = is_linear && storage != LinearStorage::bf16 && takes(format_name(storage));
    check(is_quantized || takes(BF16::name) || takes(F32::name), [&] {
      return Fault{
          .file = std::string(Model::name), .field = name, .note = "the model type takes neither this format nor BF16 here"};
    });
    parameters.push_back({name, {Leaf::shape.begin(), Leaf::shape.end()}, is_quantized});
  });
  return parameters;
}

/// Makes all tensors. Which thread makes which piece does not matter.
template <class Progress>
void write_tensors(CheckpointWriter& writer, const TensorPlanner& plan, const TensorSynthesizer& synthesizer, unsigned threads,
                   Progress&& progress) {
  struct Piece {
    std::size_t tensor, begin, size;
  };
  constexpr std::size_t most = std::size_t{1} << 20U;
  std::vector<Piece> pieces;
  for (std::size_t i = 0; i < plan.tensors().size(); ++i) {
    const std::size_t bytes = tensor_bytes(plan.tensors()[i].dtype, plan.tensors()[i].shape).value_or(0);
    for (std::size_t begin = 0; begin < bytes; begin += most) pieces.push_back({i, begin, std::min(most, bytes - begin)});
  }
  std::atomic<std::size_t> next = 0, done = 0;
  ThreadPool pool(threads);
  pool.parallel_for(pool.size(), 1, [&](std::size_t, std::size_t, unsigned worker) {
    const AlignedBytes buffer = aligned_bytes(most);
    try {
      for (std::size_t i = next++; i < pieces.size(); i = next++) {
        const auto [tensor, begin, size] = pieces[i];
        const std::span<std::byte> bytes(buffer.get(), size);
        synthesizer.make(plan.tensors()[tensor].name, plan.bytes()[tensor], begin, bytes);
        writer.write(tensor, begin, bytes);
        const std::size_t so_far = done += bytes.size();
        if (worker == 0) progress(so_far, writer.tensor_bytes());
      }
    } catch (...) {
      next = pieces.size();  // the other threads need not go on
      throw;
    }
  });
}

/// The configuration's tokens and quantisation.
inline void complete(ModelSizes& sizes, const std::optional<InventedVocabulary>& vocabulary, const SynthesisSettings& settings) {
  using Special = InventedVocabulary::Special;
  TextSizes& text = sizes.text;
  if (vocabulary) {
    text.bos = vocabulary->id(Special::begin);
    text.eos = {vocabulary->id(Special::end), vocabulary->id(Special::message_end), vocabulary->id(Special::turn_end)};
    text.pad = vocabulary->id(Special::padding);
  } else if (text.pad && *text.pad >= text.vocab) {
    text.pad.reset();  // transformers looks it up in the embedding
  }
  const bool four_bit = settings.storage == LinearStorage::nf4 || settings.storage == LinearStorage::fp4;
  sizes.quantization = {};
  if (settings.storage == LinearStorage::bf16) return;
  sizes.quantization.method = "bitsandbytes";
  sizes.quantization.four_bit = four_bit;
  sizes.quantization.eight_bit = !four_bit;
  if (four_bit) sizes.quantization.type = settings.storage == LinearStorage::nf4 ? "nf4" : "fp4";
  sizes.quantization.nested = four_bit && settings.nested;
}

}  // namespace detail

/// Writes a folder of made-up weights for a model type: the tensors that transformers saves, with weights of a size at which the
/// model behaves like a trained one, settings, tokenizer and chat template. `sizes` is the type's configuration. The same seed gives
/// the same bytes, on every machine and with any number of threads.
/// `progress(done, all)` is called from this thread now and then, with bytes.
/// Errors:  file_error, see CheckpointWriter; config_error if `sizes` has no vision part; input_error, see the settings.
/// Costs:   a megabyte per thread and a few for tables; the folder's size in page cache
template <class Model, class Progress>
SynthesisReport synthesize(const std::string& folder, ModelSizes sizes, const SynthesisSettings& settings, Progress&& progress) {
  const auto vocabulary = invented_vocabulary(sizes.text.vocab, sizes.image_token, sizes.text.pad);
  detail::complete(sizes, vocabulary, settings);
  const std::string config = config_text(sizes);
  const detail::TensorSynthesizer synthesizer(settings.seed);
  detail::TensorPlanner planner(sizes, settings.storage, settings.nested, synthesizer.tables());
  for (const auto& parameter : detail::synthetic_parameters<Model>(settings.storage)) planner.add(parameter);

  CheckpointWriter writer(folder, planner.tensors(), {.total_parameters = count_parameters<Model>().elements});
  writer.add_file("config.json", config);
  writer.add_file("generation_config.json", generation_config_text(sizes.text));
  writer.add_file("preprocessor_config.json", preprocessor_config_text(*sizes.vision));
  if (vocabulary) {
    writer.add_file("tokenizer.json", invented_tokenizer(*vocabulary));
    writer.add_file("tokenizer_config.json", invented_tokenizer_config());
    writer.add_file("chat_template.jinja", detail::plain_template);
  }
  detail::write_tensors(writer, planner, synthesizer, settings.threads, progress);
  writer.commit();
  return {.tensors = writer.size(),
          .bytes = writer.tensor_bytes(),
          .has_tokenizer = vocabulary.has_value(),
          .rests = {writer.rests().begin(), writer.rests().end()}};
}

}  // namespace mllama
