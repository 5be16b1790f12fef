// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <mllama/core/check.hpp>
#include <mllama/core/format.hpp>
#include <mllama/io/bitsandbytes.hpp>
#include <mllama/io/elements.hpp>
#include <mllama/io/float_tensor.hpp>
#include <mllama/io/model_files.hpp>
#include <mllama/io/safetensors.hpp>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

/// The tensors of a model folder as weights: float or quantised by bitsandbytes, each tensor for itself.

namespace mllama {

namespace detail {

/// The name of a 4-bit format in a quantisation state: `nf4`, `nf4x8`.
template <class F>
[[nodiscard]] std::string quant_type() {
  std::string name(F::name);
  for (char& c : name) c = static_cast<char>(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c);
  return name;
}

}  // namespace detail

/// A model folder, opened, and the memory for what cannot be used in place. Weights that it has bound point into both: it must
/// outlive them, and may be moved.
template <class = void>  // a template, so that bodies are compiled where they are used and not with every include
class BasicCheckpoint : public ModelFiles {
 public:
  explicit BasicCheckpoint(ModelFiles files) : ModelFiles(std::move(files)), used_(tensors().size(), false) {}

  /// Errors:  those of ModelFiles::open
  [[nodiscard]] static BasicCheckpoint open(const std::string& folder) { return BasicCheckpoint(ModelFiles::open(folder)); }

  /// Points `weights` at the tensor `name`, which must have the shape `shape` ([out, in] for a matrix; rows are its first length,
  /// columns all others).
  ///   * 4-bit blocks or 8-bit rows, if the format has them: in place, nested and plain scales.
  ///   * A float type of the format: in place; copied if it is not aligned.
  ///   * Another float type, if the format has F32: F16 and BF16 are widened into memory that the checkpoint owns.
  /// Errors:  shape_error that names file, tensor, expected and found; format_error if a quantised tensor is damaged.
  /// Source:  bitsandbytes `QuantState.from_dict`; what it takes on trust is checked here.
  template <WeightFormat F>
  void bind(Weights<F>& weights, std::string_view name, std::span<const std::size_t> shape) {
    bind(weights, name, shape, elements_);
  }
  /// The same with memory of the caller's, which must outlive the weights.
  template <WeightFormat F>
  void bind(Weights<F>& weights, std::string_view name, std::span<const std::size_t> shape, Elements& elements) {
    const ModelTensor& tensor = require(name, shape);
    const QuantizedTensor quantized = quantized_tensor(tensor);
    if (quantized.type().empty()) check_shape(tensor, shape);
    const bool is_bound = bind_quantized(weights, tensor, quantized, shape, elements) ||
                          (quantized.type().empty() && detail::bind_float(weights, shape, Floats{tensor, elements}));
    if (!is_bound) fail_type(tensor, detail::format_names<F>(), quantized.type());
  }

  /// The shape of a tensor of this folder as it says itself: of 4-bit codes, that of their state, [] if that leaves it to the model.
  /// Errors:  format_error if the tensor's state is damaged.
  [[nodiscard]] Shape own_shape(const ModelTensor& tensor) {
    const QuantizedTensor quantized = quantized_tensor(tensor);
    return quantized.type().empty() ? tensor.shape : quantized.stored_shape();
  }

  /// Canonical names that nothing has been bound to. A model that has bound all its members and leaves some over is not the file's
  /// model.
  [[nodiscard]] std::vector<std::string_view> unused() const {
    std::vector<std::string_view> names;
    for (std::size_t i = 0; i < used_.size(); ++i) {
      if (!used_[i]) names.push_back(tensors()[i].name);
    }
    return names;
  }

  /// Bytes of memory that had to be allocated because they could not be used in place.
  [[nodiscard]] std::size_t owned_bytes() const noexcept { return elements_.bytes(); }

 private:
  /// Numbers of a tensor: in place wherever the model has the file's bytes as they are, and the file has them aligned.
  struct Floats {
    const ModelTensor& tensor;
    Elements& elements;

    [[nodiscard]] Dtype dtype() const noexcept { return tensor.dtype; }
    template <DenseFormat F>
    [[nodiscard]] const typename F::stored* as_stored() const {
      using Element = typename F::stored;
      if (tensor.in_place()) return elements.of<Element>(*tensor.stored.tensor);
      std::byte* const arranged = elements.take(tensor.bytes());
      detail::rearrange(tensor, arranged);
      tensor.stored.forget();
      return reinterpret_cast<const Element*>(arranged);
    }
    template <DenseFormat F>
    [[nodiscard]] const float* widened() const {
      return elements.widened<F>(read(tensor).bytes());
    }
  };

  const ModelTensor& require(std::string_view name, std::span<const std::size_t> shape) {
    const ModelTensor* const tensor = use(name);
    if (tensor == nullptr) {
      throw shape_error(Fault{.file = folder(),
                              .field = std::string(name),
                              .expected = concat("a tensor ", to_string(shape)),
                              .found = "none of this name"});
    }
    return *tensor;
  }

  /// The tensor of this name, or null.
  const ModelTensor* use(std::string_view name) {
    const ModelTensor* const tensor = find(name);
    if (tensor != nullptr) used_[static_cast<std::size_t>(tensor - tensors().data())] = true;
    return tensor;
  }

  /// The tensor with those whose names are its own and more.
  [[nodiscard]] QuantizedTensor quantized_tensor(const ModelTensor& tensor) {
    QuantizedTensor quantized(tensor.stored);
    const auto parts = with_prefix(concat(tensor.name, "."));
    for (const ModelTensor& part : parts) {
      quantized.add(part.stored, std::string_view(part.name).substr(tensor.name.size()));
      use(part.name);
    }
    if (parts.empty()) return quantized;
    if (quantized.type().empty()) parts.front().stored.fail("a quantisation state beside it", "none");
    if (!tensor.in_place()) tensor.stored.fail("no parts of a quantised tensor beside one of Meta's layout", parts.front().name);
    return quantized;
  }

  /// The tensor with those beside it that make it a matrix of LLM.int8().
  [[nodiscard]] Int8Tensor int8_tensor(const ModelTensor& tensor) {
    Int8Tensor matrix{.weight = tensor.stored, .scales = {}, .layout = {}};
    const std::string_view name = tensor.name;
    if (tensor.dtype != Dtype::I8 || !name.ends_with(".weight")) return matrix;
    const std::string_view module = name.substr(0, name.size() - std::string_view("weight").size());
    const auto beside = [&](std::string_view part) {
      const ModelTensor* const found = use(concat(module, part));
      return found == nullptr ? TensorOfFile{} : found->stored;
    };
    matrix.scales = beside("SCB");
    matrix.layout = beside("weight_format");
    return matrix;
  }

  static void check_shape(const ModelTensor& tensor, std::span<const std::size_t> shape) {
    if (shape.empty() || !std::ranges::equal(shape, tensor.shape)) {
      tensor.stored.template fail<shape_error>(to_string(shape), concat(name(tensor.dtype), " ", to_string(tensor.shape)));
    }
  }

  [[noreturn]] void fail_type(const ModelTensor& tensor, std::string expected, std::string_view quant_type) const {
    std::string found(name(tensor.dtype));
    if (!quant_type.empty()) {
      found = concat("bitsandbytes ", quant_type);
    } else if (tensor.dtype == Dtype::I8) {
      const bool has_scales = find(concat(tensor.name.substr(0, tensor.name.rfind('.')), ".SCB")) != nullptr;
      found += has_scales ? " of LLM.int8()" : " without scales SCB";
    }
    tensor.stored.template fail<shape_error>(std::move(expected), std::move(found),
                                             "the model type does not take this storage format here");
  }

  /// False if the tensor is in none of the formats of 4 or 8 bits.
  template <class F>
  bool bind_quantized(Weights<F>& weights, const ModelTensor& tensor, const QuantizedTensor& quantized,
                      std::span<const std::size_t> shape, Elements& elements) {
    return detail::FormatList<F>::any([&]<class G>() {
      if constexpr (BlockFormat<G> || PackedFormat<G>) {
        if (quantized.type() != detail::quant_type<G>()) return false;
        detail::assign(weights, quantized.template read<G>(shape, elements));
        return true;
      } else if constexpr (RowFormat<G>) {
        if (!quantized.type().empty() || shape.size() != 2) return false;
        const Int8Tensor matrix = int8_tensor(tensor);
        if (!matrix.quantized()) return false;
        detail::assign(weights, matrix.read<G>(shape, elements));
        return true;
      }
      return false;
    });
  }

  std::vector<bool> used_;  ///< per tensor
  Elements elements_;
};
using Checkpoint = BasicCheckpoint<>;
#if defined(MLLAMA_ELSEWHERE)
extern template class BasicCheckpoint<>;
#endif

}  // namespace mllama
