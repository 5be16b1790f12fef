// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <mllama/core/format.hpp>
#include <mllama/core/workspace.hpp>
#include <mllama/io/safetensors.hpp>
#include <span>
#include <vector>

namespace mllama {

/// Elements of file tensors as C++ objects: in place wherever the file has them aligned, otherwise in memory that this object owns.
/// Pointers stay valid while it and the file live; both may be moved.
class Elements {
 public:
  /// The elements, whose type is the caller's to check.
  template <class T>
  [[nodiscard]] const T* of(const FileTensor& tensor) {
    if (reinterpret_cast<std::uintptr_t>(tensor.bytes.data()) % alignof(T) == 0) {
      return reinterpret_cast<const T*>(tensor.bytes.data());
    }
    std::byte* const copy = take(tensor.bytes.size());
    std::memcpy(copy, tensor.bytes.data(), tensor.bytes.size());
    return reinterpret_cast<const T*>(copy);
  }

  /// Elements that are stored in the dense format F, as float32. Exact for F16 and BF16.
  template <DenseFormat F>
  [[nodiscard]] const float* widened(std::span<const std::byte> bytes) {
    using Narrow = typename F::stored;
    const std::size_t count = bytes.size() / sizeof(Narrow);
    float* const wide = reinterpret_cast<float*>(take(count * sizeof(float)));
    for (std::size_t i = 0; i < count; ++i) {
      Narrow narrow{};
      std::memcpy(&narrow, bytes.data() + i * sizeof narrow, sizeof narrow);
      wide[i] = F::decode(narrow);
    }
    return wide;
  }

  /// Memory for elements that a caller puts together.
  [[nodiscard]] std::byte* take(std::size_t bytes) {
    blocks_.push_back(detail::aligned_bytes(bytes));
    bytes_ += bytes;
    return blocks_.back().get();
  }

  /// Bytes owned.
  [[nodiscard]] std::size_t bytes() const noexcept { return bytes_; }

 private:
  std::vector<detail::AlignedBytes> blocks_;
  std::size_t bytes_ = 0;
};

}  // namespace mllama
