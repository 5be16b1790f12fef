// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstddef>
#include <cstring>
#include <mllama/core/check.hpp>
#include <mllama/io/mapped_file.hpp>
#include <mllama/io/safetensors.hpp>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

/// A tensor as the model has it, and how its bytes follow from those of a file.

namespace mllama {

/// A tensor and the file that it lies in, for messages.
struct TensorOfFile {
  const FileTensor* tensor = nullptr;
  std::string_view file;
  bool mapped = true;  ///< false for memory of the caller's, which does not come back when it is let go

  [[nodiscard]] bool present() const noexcept { return tensor != nullptr; }

  /// Lets go of the memory that its bytes take, if they are a mapped file's.
  void forget() const noexcept {
    if (mapped) MappedFile::forget(tensor->bytes);
  }

  template <class Error = format_error>
  [[noreturn]] void fail(std::string expected, std::string found, std::string note = {}) const {
    throw Error(Fault{.file = std::string(file),
                      .field = tensor->name,
                      .expected = std::move(expected),
                      .found = std::move(found),
                      .note = std::move(note)});
  }
};

/// Row 2i + r of each run of `head` rows becomes row r · head/2 + i of it.
struct InterleavedRows {
  std::size_t head = 2;
};
/// The rows of another tensor follow.
struct JoinedRows {
  TensorOfFile rest;
};
/// A table [T, T, …] of tile rows and columns becomes one of aspect ratios, each a row of T entries: those of its tiles in order,
/// then zeros. Row 0, of no picture, is zero.
struct TileTable {
  std::span<const std::array<int, 2>> ratios;  ///< tiles high, wide; no more than T in all
};
/// What has to happen to a file's bytes; nothing, in all layouts but Meta's.
using Rearrangement = std::variant<std::monostate, InterleavedRows, JoinedRows, TileTable>;

/// A tensor of a model folder.
struct ModelTensor {
  std::string name;  ///< canonical
  Dtype dtype = Dtype::F32;
  Shape shape;          ///< the model's
  TensorOfFile stored;  ///< under the file's name, in the file's shape
  Rearrangement rearrangement = {};

  [[nodiscard]] bool in_place() const noexcept { return std::holds_alternative<std::monostate>(rearrangement); }
  /// Of the model's tensor.
  [[nodiscard]] std::size_t bytes() const noexcept {
    std::size_t elements = 1;
    for (const std::size_t length : shape) elements *= length;
    return in_place() ? stored.tensor->bytes.size() : elements * (bits(dtype) / 8);
  }
};

namespace detail {

inline void rearrange(std::monostate, const ModelTensor& tensor, std::byte* to) {
  std::memcpy(to, tensor.stored.tensor->bytes.data(), tensor.stored.tensor->bytes.size());
}
inline void rearrange(const InterleavedRows& how, const ModelTensor& tensor, std::byte* to) {
  const std::size_t rows = tensor.shape[0], size = tensor.bytes() / rows;
  const std::byte* from = tensor.stored.tensor->bytes.data();
  for (std::size_t row = 0; row < rows; ++row, from += size) {
    const std::size_t in_head = row % how.head;
    std::memcpy(to + (row - in_head + in_head % 2 * (how.head / 2) + in_head / 2) * size, from, size);
  }
}
inline void rearrange(const JoinedRows& how, const ModelTensor& tensor, std::byte* to) {
  rearrange(std::monostate{}, tensor, to);
  const auto& rest = how.rest.tensor->bytes;
  std::memcpy(to + tensor.stored.tensor->bytes.size(), rest.data(), rest.size());
}
inline void rearrange(const TileTable& how, const ModelTensor& tensor, std::byte* to) {
  const std::size_t side = tensor.stored.tensor->shape[0], row_size = tensor.bytes() / tensor.shape[0], size = row_size / side;
  const std::byte* const from = tensor.stored.tensor->bytes.data();
  std::memset(to, 0, tensor.bytes());
  for (const auto& ratio : how.ratios) {
    to += row_size;
    const auto high = static_cast<std::size_t>(ratio[0]), wide = static_cast<std::size_t>(ratio[1]);
    for (std::size_t row = 0; row < high; ++row) std::memcpy(to + row * wide * size, from + row * side * size, wide * size);
  }
}

/// Writes `tensor.bytes()` bytes, as the model has them.
template <class = void>  // a template, so that the variants are compiled where they are used and not with every include
void rearrange(const ModelTensor& tensor, std::byte* to) {
  std::visit([&](const auto& how) { rearrange(how, tensor, to); }, tensor.rearrangement);
}

}  // namespace detail

}  // namespace mllama
