// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <mllama/core/check.hpp>
#include <mllama/core/thread_pool.hpp>
#include <mllama/generate/adapter_merge.hpp>
#include <mllama/io/checkpoint.hpp>
#include <mllama/io/float_tensor.hpp>
#include <mllama/kernels/simd/decode.hpp>
#include <mllama/layers/lora.hpp>

/// The tensors of a model folder as numbers, with the changes of adapters made: what programs that write folders anew read.

namespace mllama {

/// An adapter that is to be merged, so many times as strong as it says of itself.
struct MergedAdapter {
  std::string folder;
  double scale = 1;
};

/// What adapters make of a tensor. Low-rank changes of a bias are those of the matrix beside it.
struct TensorChanges : MergedParameter {
  std::size_t columns = 0;  ///< of that matrix

  [[nodiscard]] bool empty() const noexcept { return changes.empty() && replacement == nullptr; }
};

/// A model folder, and the adapters that are merged into it in their order. Needs no model type.
/// Source:  PEFT's `merge_and_unload`, in float32
template <class = void>  // a template, so that bodies are compiled where they are used and not with every include
class BasicMergedFolder {
 public:
  /// Errors:  those of Checkpoint::open and AdapterFile
  BasicMergedFolder(const std::string& folder, std::span<const MergedAdapter> adapters) : files_(Checkpoint::open(folder)) {
    for (const MergedAdapter& adapter : adapters) adapters_.add(adapter.folder, adapter.scale);
  }

  [[nodiscard]] Checkpoint& files() noexcept { return files_; }
  [[nodiscard]] const Checkpoint& files() const noexcept { return files_; }

  [[nodiscard]] const AdapterMerge& adapters() const noexcept { return adapters_; }

  /// Whether a tensor belongs to the one whose name its own begins with, or to the matrix beside it.
  [[nodiscard]] bool is_part(const ModelTensor& tensor) const {
    const std::string_view name = tensor.name;
    if (name.ends_with(".SCB") || name.ends_with(".weight_format"))
      return files_.find(concat(module_of(name), ".weight")) != nullptr;
    const std::size_t end = name.find(".weight.");
    return end != name.npos && files_.find(name.substr(0, end + std::string_view(".weight").size())) != nullptr;
  }

  /// The tensor, and those that a quantised matrix is made of beside it.
  [[nodiscard]] std::vector<const ModelTensor*> parts_of(const ModelTensor& tensor) const {
    std::vector<const ModelTensor*> parts{&tensor};
    for (const ModelTensor& part : files_.with_prefix(tensor.name + '.')) parts.push_back(&part);
    if (!tensor.name.ends_with(".weight")) return parts;
    for (const std::string_view beside : {".SCB", ".weight_format"}) {
      if (const ModelTensor* const part = files_.find(concat(module_of(tensor.name), beside))) parts.push_back(part);
    }
    return parts;
  }

  /// Whether the layout of a tensor is that of a linear's matrix.
  [[nodiscard]] static bool is_linear(std::string_view name, std::span<const std::size_t> shape) noexcept {
    return shape.size() == 2 && name.ends_with(".weight") && name.find("embed") == name.npos;
  }

  /// What the adapters make of a tensor of this shape.
  /// Errors:  those of AdapterMerge::of, and config_error for a change of a bias where the base has none.
  [[nodiscard]] TensorChanges changes_of(const ModelTensor& tensor, const Shape& shape, ThreadPool& threads) {
    if (adapters_.empty()) return {};
    TensorChanges changes{parameter(tensor, shape, threads)};
    const std::string_view module = module_of(tensor.name);
    const auto has_bias = [](const ScaledLowRank& scaled) { return scaled.change.bias != nullptr; };
    if (tensor.name.ends_with(".bias")) {
      const ModelTensor* const matrix = files_.find(concat(module, ".weight"));
      if (matrix == nullptr) return changes;
      const Shape lengths = files_.own_shape(*matrix);
      if (lengths.size() != 2) return changes;
      changes.columns = lengths[1];
      changes.changes = parameter(*matrix, lengths, threads).changes;
      if (std::ranges::none_of(changes.changes, has_bias)) changes.changes.clear();
    } else if (shape.size() == 2) {
      changes.columns = shape[1];
      check<config_error>(std::ranges::none_of(changes.changes, has_bias) || files_.find(concat(module, ".bias")) != nullptr, [&] {
        return Fault{.file = files_.folder(), .field = std::string(module), .note = "an adapter adds a bias, and there is none"};
      });
    }
    return changes;
  }

  /// Calls `use(decode)` with a function `decode(first, out)` that gives the elements [first, first + out.size()) of a tensor, to
  /// any number of threads; then lets go of the memory that the tensor took.
  template <class Use>
  void with_numbers(const ModelTensor& tensor, const Shape& shape, const TensorChanges& changes, Use&& use) {
    Elements memory;
    Weights<Stored> weights;
    if (changes.replacement == nullptr) {
      files_.bind(weights, tensor.name, shape, memory);
    } else if (!bind_float(weights, *changes.replacement, shape, memory)) {
      throw shape_error(Fault{.field = changes.replacement->name,
                              .expected = "F32, BF16 or F16",
                              .found = std::string(name(changes.replacement->dtype))});
    }
    with_format(weights, [&](const auto& stored) {
      const auto plain = [&](std::size_t first, std::span<float> out) {
        kernels::detail::decode_run(stored, first, out.size(), out.data());
      };
      if (changes.changes.empty()) {
        use(plain);
      } else if (shape.size() == 1) {
        use([&](std::size_t first, std::span<float> out) { decode_bias(tensor, changes, plain, first, out); });
      } else {
        use([&](std::size_t first, std::span<float> out) { decode_merged(changes, plain, first, out); });
      }
    });
    for (const ModelTensor* const part : parts_of(tensor)) part->stored.forget();
  }

 private:
  [[nodiscard]] MergedParameter parameter(const ModelTensor& tensor, const Shape& shape, ThreadPool& threads) {
    Elements memory;
    Weights<Stored> weights;
    files_.bind(weights, tensor.name, shape, memory);
    return adapters_.of(tensor.name, shape, weights, threads);
  }

  [[nodiscard]] static std::string_view module_of(std::string_view name) noexcept { return name.substr(0, name.rfind('.')); }

  /// Changes are made to whole rows.
  template <class Decode>
  static void decode_merged(const TensorChanges& changes, const Decode& plain, std::size_t first, std::span<float> out) {
    const std::size_t columns = changes.columns, begin = first / columns, end = (first + out.size() + columns - 1) / columns;
    std::vector<float> rows((end - begin) * columns);
    plain(begin * columns, rows);
    merge(changes.changes, begin, {rows.data(), end - begin, columns});
    std::copy_n(rows.data() + (first - begin * columns), out.size(), out.data());
  }

  /// What the changes make of a bias depends on the matrix, if they have magnitudes.
  template <class Decode>
  void decode_bias(const ModelTensor& bias, const TensorChanges& changes, const Decode& plain, std::size_t first,
                   std::span<float> out) {
    const ModelTensor& matrix = *files_.find(concat(module_of(bias.name), ".weight"));
    Elements memory;
    Weights<Stored> weights;
    files_.bind(weights, matrix.name, files_.own_shape(matrix), memory);
    plain(first, out);
    std::vector<float> row(changes.columns);
    for (std::size_t r = 0; r < out.size(); ++r) {
      weights.decode((first + r) * row.size(), row);
      merge(changes.changes, first + r, {row.data(), 1, row.size()}, out.subspan(r, 1));
    }
  }

  Checkpoint files_;
  AdapterMerge adapters_;
};
using MergedFolder = BasicMergedFolder<>;
#if defined(MLLAMA_ELSEWHERE)
extern template class BasicMergedFolder<>;
#endif

}  // namespace mllama
