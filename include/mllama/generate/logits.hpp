// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <mllama/core/check.hpp>
#include <mllama/core/context.hpp>
#include <mllama/generate/padded.hpp>
#include <mllama/io/safetensors.hpp>
#include <mllama/observe/recorder.hpp>

/// A forward pass from a file of padded inputs to named outputs: what a comparison with another implementation needs.

namespace mllama {

/// Transformers' inputs, read from a safetensors file, and ids to be fed one by one afterwards. Integers may be of any integer
/// type, pixels F32, BF16 or F16.
class InputFile {
 public:
  enum class OtherTensors { refused, ignored };

  explicit InputFile(const std::string& path, OtherTensors others = OtherTensors::refused) : path_(path), file_(path) {
    for (const FileTensor& tensor : file_.tensors()) {
      const std::string_view key = tensor.name;
      if (others == OtherTensors::ignored && std::find(input_names.begin(), input_names.end(), key) == input_names.end()) continue;
      if (tensor.size() == 0) reject(tensor, "at least one element");
      if (key == "input_ids") {
        input_ids_ = integers(tensor, 2);
      } else if (key == "attention_mask") {
        attention_mask_ = integers(tensor, 2);
      } else if (key == "pixel_values") {
        pixel_values_ = floats(tensor);
        inputs_.images = tensor.shape[1];
      } else if (key == "aspect_ratio_ids") {
        aspect_ratio_ids_ = integers(tensor, 2);
      } else if (key == "aspect_ratio_mask") {
        aspect_ratio_mask_ = integers(tensor, 3);
      } else if (key == "cross_attention_mask") {
        cross_attention_mask_ = integers(tensor, 4);
      } else if (key == "decode_input_ids") {
        decode_input_ids_ = integers(tensor, 2);
        steps_ = tensor.shape[1];
      } else {
        throw input_error(
            Fault{.file = path, .field = tensor.name, .expected = "one of the model's inputs", .found = "another name"});
      }
      const std::size_t batch = tensor.shape[0];
      if (inputs_.batch == 0) inputs_.batch = batch;
      check(batch == inputs_.batch, [&] {
        return Fault{.file = path, .field = tensor.name, .expected = concat(inputs_.batch, " rows"), .found = concat(batch)};
      });
    }
    if (const FileTensor* ids = file_.find("input_ids")) inputs_.length = ids->shape[1];
    inputs_.input_ids = input_ids_;
    inputs_.attention_mask = attention_mask_;
    inputs_.pixel_values = pixel_values_;
    inputs_.aspect_ratio_ids = aspect_ratio_ids_;
    inputs_.aspect_ratio_mask = aspect_ratio_mask_;
    inputs_.cross_attention_mask = cross_attention_mask_;
    check(!inputs_.input_ids.empty() || !inputs_.pixel_values.empty(),
          [&] { return Fault{.file = path, .expected = "input_ids or pixel_values", .found = "neither"}; });
    check(decode_input_ids_.empty() || !inputs_.input_ids.empty(),
          [&] { return Fault{.file = path, .field = "decode_input_ids", .expected = "input_ids to continue", .found = "none"}; });
  }

  [[nodiscard]] const PaddedInputs& inputs() const noexcept { return inputs_; }
  [[nodiscard]] const Safetensors& file() const noexcept { return file_; }
  /// Errors:  input_error if the pixels have other axes than the vision model takes.
  template <class Vision>
  void check_pixels() const {
    const FileTensor* pixels = file_.find("pixel_values");
    constexpr std::size_t tiles = Vision::tiles, channels = Vision::channels, side = Vision::image;
    const std::vector<std::size_t> expected{inputs_.batch, inputs_.images, tiles, channels, side, side};
    if (pixels != nullptr && pixels->shape != expected) reject(*pixels, to_string(expected));
  }
  [[nodiscard]] std::size_t steps() const noexcept { return steps_; }
  /// Ids of decode step `step`, one per row.
  [[nodiscard]] std::vector<std::int64_t> step_ids(std::size_t step) const {
    std::vector<std::int64_t> ids;
    for (std::size_t b = 0; b < inputs_.batch; ++b) ids.push_back(decode_input_ids_[b * steps_ + step]);
    return ids;
  }

 private:
  static constexpr std::array<std::string_view, 7> input_names{"input_ids",        "attention_mask",    "pixel_values",
                                                               "aspect_ratio_ids", "aspect_ratio_mask", "cross_attention_mask",
                                                               "decode_input_ids"};

  [[noreturn]] void reject(const FileTensor& tensor, std::string expected) const {
    throw input_error(Fault{.file = path_,
                            .field = tensor.name,
                            .expected = std::move(expected),
                            .found = concat(name(tensor.dtype), " ", to_string(tensor.shape))});
  }

  template <class T, class Out>
  static void widen(const FileTensor& tensor, std::vector<Out>& out) {
    for (std::size_t i = 0; i < out.size(); ++i) {
      T value;
      std::memcpy(&value, tensor.bytes.data() + i * sizeof value, sizeof value);
      out[i] = static_cast<Out>(value);
    }
  }

  std::vector<std::int64_t> integers(const FileTensor& tensor, std::size_t rank) const {
    if (tensor.shape.size() != rank) reject(tensor, concat("integers with ", rank, " axes"));
    std::vector<std::int64_t> out(tensor.size());
    switch (tensor.dtype) {
      case Dtype::I64:
        widen<std::int64_t>(tensor, out);
        break;
      case Dtype::I32:
        widen<std::int32_t>(tensor, out);
        break;
      case Dtype::U8:
      case Dtype::BOOL:
        widen<std::uint8_t>(tensor, out);
        break;
      default:
        reject(tensor, "I64, I32, U8 or BOOL");
    }
    return out;
  }

  std::vector<float> floats(const FileTensor& tensor) const {
    if (tensor.shape.size() != 6) reject(tensor, "numbers with 6 axes");
    std::vector<float> out(tensor.size());
    if (tensor.dtype == Dtype::F32) {
      std::memcpy(out.data(), tensor.bytes.data(), tensor.bytes.size());
    } else if (tensor.dtype == Dtype::BF16 || tensor.dtype == Dtype::F16) {
      std::vector<std::uint16_t> bits(out.size());
      std::memcpy(bits.data(), tensor.bytes.data(), tensor.bytes.size());
      std::transform(bits.begin(), bits.end(), out.begin(), tensor.dtype == Dtype::BF16 ? BF16::decode : F16::decode);
    } else {
      reject(tensor, "F32, BF16 or F16");
    }
    return out;
  }

  std::string path_;
  Safetensors file_;
  PaddedInputs inputs_;
  std::vector<std::int64_t> input_ids_, attention_mask_, aspect_ratio_ids_, aspect_ratio_mask_, cross_attention_mask_,
      decode_input_ids_;
  std::vector<float> pixel_values_;
  std::size_t steps_ = 0;
};

/// A named float32 tensor of a result.
struct NamedTensor {
  std::string name;
  std::vector<std::size_t> shape;
  std::vector<float> values;
};

/// Runs a model on a file's inputs, in a precision if the back end leaves that open.
/// Returns:  `vision_output (B, M, T, N, D)`, `cross_attention_states (B, M, T, N, H)`, and with ids `hidden_states.0 …
///           (B, L, H)` (0 = embedding, i = after layer i − 1, before the final norm; absent where a layer is skipped), `logits
///           (B, L, V)`, and with decode ids `decode_logits (B, n, V)`. Rows of padding are 0.
/// Errors:   input_error
template <Backend B = cpu<>, class Model>
[[nodiscard]] std::vector<NamedTensor> run_logits(const Model& model, const InputFile& file, const Numerics& numerics,
                                                  unsigned threads = 0, [[maybe_unused]] Precision precision = Precision::f32,
                                                  KeyFormat key_format = KeyFormat::f32) {
  using Vision = typename Model::Vision;
  using Text = typename Model::Text;
  const PaddedInputs& in = file.inputs();
  if (!in.pixel_values.empty()) model.require_vision("pixel_values");
  file.check_pixels<Vision>();
  Context<B, Recorder> ctx(threads, Recorder{{"vision_output", "cross_attention_states", "hidden_states"}});
  if constexpr (requires { ctx.precision(precision); }) ctx.precision(precision);
  ctx.key_format(key_format);
  std::vector<NamedTensor> outputs;

  PaddedRun<Model> run(model, numerics);
  if (in.input_ids.empty()) {
    run.check_sizes(in);
    for (std::size_t i = 0; i < in.batch * in.images; ++i) {
      static_cast<void>(model.cross_attention_states(run.picture_tiles(in, i), numerics, ctx));
    }
  } else {
    const auto logits = run.prompt(in, ctx);
    outputs.push_back({"logits", {in.batch, in.length, Text::vocab}, {logits.flat().begin(), logits.flat().end()}});
  }
  for (const Recorder::Record& record : ctx.observer().records()) {
    NamedTensor output{record.name, {}, {}};
    const std::size_t width = record.shape.back();
    if (record.name == "vision_output" || record.name == "cross_attention_states") {
      output.shape = {in.batch, in.images, Vision::tiles, VisionShape<Vision>::positions, width};
      output.values = record.values;
    } else {
      output.shape = {in.batch, in.length, width};
      output.values.resize(in.batch * in.length * width);
      const auto rows = run.padded_rows();
      for (std::size_t r = 0; r < rows.size(); ++r) {
        std::copy_n(record.values.data() + r * width, width, output.values.data() + rows[r] * width);
      }
    }
    outputs.push_back(std::move(output));
  }

  if (file.steps() != 0) {
    NamedTensor decoded{"decode_logits", {in.batch, file.steps(), Text::vocab}, {}};
    decoded.values.resize(in.batch * file.steps() * Text::vocab);
    for (std::size_t step = 0; step < file.steps(); ++step) {
      const auto logits = run.step(file.step_ids(step), ctx);
      for (std::size_t b = 0; b < in.batch; ++b) {
        std::copy_n(logits.data() + b * Text::vocab, Text::vocab, decoded.values.data() + (b * file.steps() + step) * Text::vocab);
      }
    }
    outputs.push_back(std::move(decoded));
  }
  return outputs;
}

}  // namespace mllama
