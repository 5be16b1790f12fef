// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <mllama/core/check.hpp>
#include <mllama/io/checkpoint_writer.hpp>
#include <mllama/io/quant_state.hpp>
#include <string>
#include <string_view>
#include <vector>

/// The tensors of a quantised matrix, as bitsandbytes names and lays them out: what bitsandbytes.hpp reads.

namespace mllama {

/// torch's name of a float type: `bfloat16`.
[[nodiscard]] constexpr std::string_view torch_name(Dtype dtype) noexcept {
  return dtype == Dtype::BF16 ? "bfloat16" : dtype == Dtype::F16 ? "float16" : "float32";
}

/// The tensors of a matrix of 4 bits to be declared to a CheckpointWriter, which then knows them by the numbers from `first` on.
struct FourBitTensors {
  std::string name;  ///< ends in `.weight`
  QuantState matrix;
  bool nested = false;
  std::size_t first = 0;

  [[nodiscard]] std::size_t elements() const noexcept { return matrix.rows * matrix.columns; }
  [[nodiscard]] std::size_t blocks() const noexcept { return (elements() + matrix.block - 1) / matrix.block; }
  [[nodiscard]] std::size_t groups() const noexcept { return (blocks() + matrix.nested_block - 1) / matrix.nested_block; }

  // Numbers of the declared tensors.
  [[nodiscard]] std::size_t codes() const noexcept { return first; }
  [[nodiscard]] std::size_t absmax() const noexcept { return first + 1; }
  [[nodiscard]] std::size_t quant_map() const noexcept { return first + 2; }
  [[nodiscard]] std::size_t state() const noexcept { return first + 3; }
  [[nodiscard]] std::size_t nested_absmax() const noexcept { return first + 4; }
  [[nodiscard]] std::size_t nested_map() const noexcept { return first + 5; }

  /// Declares them. The length of a nested state is known when its offset is, here or late.
  void declare(std::vector<PlannedTensor>& tensors) {
    first = tensors.size();
    const bool is_late = nested && !matrix.nested_offset;
    QuantState longest = matrix;
    if (is_late) longest.nested_offset = -1.2345679e-38F;  // of all floats, none has a longer text
    tensors.push_back({name, Dtype::U8, {(elements() + 1) / 2, 1}});
    tensors.push_back({name + ".absmax", nested ? Dtype::U8 : Dtype::F32, {blocks()}});
    tensors.push_back({name + ".quant_map", Dtype::F32, {16}});
    tensors.push_back({concat(name, ".quant_state.bitsandbytes__", matrix.type), Dtype::U8, {longest.text().size()}, is_late});
    if (!nested) return;
    tensors.push_back({name + ".nested_absmax", Dtype::F32, {groups()}});
    tensors.push_back({name + ".nested_quant_map", Dtype::F32, {256}});
  }
};

/// The same of a matrix of LLM.int8().
struct Int8Tensors {
  std::string name;  ///< ends in `.weight`
  Shape shape;
  std::size_t first = 0;

  [[nodiscard]] std::size_t codes() const noexcept { return first; }
  [[nodiscard]] std::size_t scales() const noexcept { return first + 1; }
  [[nodiscard]] std::size_t layout() const noexcept { return first + 2; }  ///< one byte, 0

  void declare(std::vector<PlannedTensor>& tensors) {
    first = tensors.size();
    const std::string module = name.substr(0, name.size() - std::string_view("weight").size());
    tensors.push_back({name, Dtype::I8, shape});
    tensors.push_back({module + "SCB", Dtype::F32, {shape[0]}});
    tensors.push_back({module + "weight_format", Dtype::U8, {}});
  }
};

}  // namespace mllama
