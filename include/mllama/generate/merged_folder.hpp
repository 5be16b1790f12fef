// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <deque>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <mllama/core/check.hpp>
#include <mllama/generate/adapter_file.hpp>
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

/// What adapters make of a tensor.
struct TensorChanges {
  std::vector<ScaledLowRank> low_rank;      ///< of a matrix or, in a bias, of the matrix beside it
  const FileTensor* replacement = nullptr;  ///< what takes its place, before the changes
  std::size_t columns = 0;                  ///< of that matrix

  [[nodiscard]] bool empty() const noexcept { return low_rank.empty() && replacement == nullptr; }
};

/// A model folder, and the adapters that are merged into it in their order. Needs no model type.
/// Source:  PEFT's `merge_and_unload`, in float32
template <class = void>  // a template, so that bodies are compiled where they are used and not with every include
class BasicMergedFolder {
 public:
  /// Errors:  those of Checkpoint::open and AdapterFile
  BasicMergedFolder(const std::string& folder, std::span<const MergedAdapter> adapters) : files_(Checkpoint::open(folder)) {
    for (const MergedAdapter& adapter : adapters) adapters_.push_back({AdapterFile(adapter.folder), adapter.scale});
  }

  [[nodiscard]] Checkpoint& files() noexcept { return files_; }
  [[nodiscard]] const Checkpoint& files() const noexcept { return files_; }

  /// What the adapters' configurations have that was ignored although it may matter.
  [[nodiscard]] std::vector<std::string> notices() const {
    std::vector<std::string> all;
    for (const auto& [file, scale] : adapters_) all.insert(all.end(), file.config().notices.begin(), file.config().notices.end());
    return all;
  }

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
  /// Errors:  shape_error, format_error and config_error as AdapterFile has them, and for a bias where the base has none.
  [[nodiscard]] TensorChanges changes_of(const ModelTensor& tensor, std::span<const std::size_t> shape) {
    TensorChanges changes;
    const std::string_view module = module_of(tensor.name);
    for (auto& [file, scale] : adapters_) {
      static_cast<void>(file.copy(tensor.name, shape));  // of the base that the adapter was made for, which may be quantised here
      if (const FileTensor* const replacement = file.replacement(tensor.name, shape)) {
        check<config_error>(changes.empty() && scale == 1, [&] {
          return Fault{.file = file.path(),
                       .field = replacement->name,
                       .note = changes.empty() ? "an adapter that replaces tensors is merged with scale 1"
                                               : "another adapter changes or replaces this tensor"};
        });
        changes.replacement = replacement;
      }
      const bool is_bias = tensor.name.ends_with(".bias");
      const ModelTensor* const matrix = is_bias ? files_.find(concat(module, ".weight")) : &tensor;
      if (matrix == nullptr || !matrix->name.ends_with(".weight")) continue;
      const Shape lengths = is_bias ? files_.own_shape(*matrix) : Shape(shape.begin(), shape.end());
      if (lengths.size() != 2) continue;
      const auto change = is_linear(matrix->name, lengths) ? file.linear(module, lengths[0], lengths[1])
                                                           : file.embedding(module, lengths[0], lengths[1]);
      if (!change || (is_bias && change->bias == nullptr)) continue;
      check<config_error>(change->bias == nullptr || files_.find(concat(module, ".bias")) != nullptr, [&] {
        return Fault{.file = file.path(), .field = std::string(module), .note = "the adapter adds a bias, and the base has none"};
      });
      changes.columns = lengths[1];
      changes.low_rank.push_back({*change, scale});
    }
    return changes;
  }

  /// See AdapterFile::check_all_used, of all adapters.
  void check_all_used() const {
    for (const auto& [file, scale] : adapters_) file.check_all_used();
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
      if (changes.low_rank.empty()) {
        use(plain);
      } else if (shape.size() == 1) {
        use([&](std::size_t first, std::span<float> out) { decode_bias(tensor, changes, plain, first, out); });
      } else {
        use([&](std::size_t first, std::span<float> out) { decode_merged(changes, plain, first, out); });
      }
    });
    for (const ModelTensor* const part : parts_of(tensor)) MappedFile::forget(part->stored.tensor->bytes);
  }

 private:
  struct Adapter {
    AdapterFile file;
    double scale;
  };

  [[nodiscard]] static std::string_view module_of(std::string_view name) noexcept { return name.substr(0, name.rfind('.')); }

  /// Changes are made to whole rows.
  template <class Decode>
  static void decode_merged(const TensorChanges& changes, const Decode& plain, std::size_t first, std::span<float> out) {
    const std::size_t columns = changes.columns, begin = first / columns, end = (first + out.size() + columns - 1) / columns;
    std::vector<float> rows((end - begin) * columns);
    plain(begin * columns, rows);
    merge(changes.low_rank, begin, {rows.data(), end - begin, columns});
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
      merge(changes.low_rank, first + r, {row.data(), 1, row.size()}, out.subspan(r, 1));
    }
  }

  Checkpoint files_;
  std::deque<Adapter> adapters_;  // changes refer to them
};
using MergedFolder = BasicMergedFolder<>;

}  // namespace mllama
