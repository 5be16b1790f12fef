// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <new>
#include <vector>

namespace mllama {

/// Every buffer starts on a cache line, which is also the widest vector.
inline constexpr std::size_t buffer_alignment = 64;

namespace detail {
struct AlignedDelete {
  void operator()(std::byte* bytes) const noexcept { ::operator delete[](bytes, std::align_val_t{buffer_alignment}); }
};
using AlignedBytes = std::unique_ptr<std::byte[], AlignedDelete>;

inline AlignedBytes aligned_bytes(std::size_t count) {
  return AlignedBytes{static_cast<std::byte*>(::operator new[](count, std::align_val_t{buffer_alignment}))};
}
}  // namespace detail

/// Memory of the intermediate tensors of a forward pass: a stack whose blocks are kept, so that a pass like an earlier one
/// allocates nothing. Buffers may be given back in any order; the stack shrinks when those above have gone.
/// Not for use by two threads at once.
class Workspace {
 public:
  [[nodiscard]] std::byte* take(std::size_t bytes) {
    bytes = (std::max<std::size_t>(bytes, 1) + buffer_alignment - 1) / buffer_alignment * buffer_alignment;
    if (buffers_.empty() && blocks_.size() > 1) merge_blocks();
    std::size_t block = buffers_.empty() ? 0 : buffers_.back().block;
    std::size_t begin = buffers_.empty() ? 0 : buffers_.back().end;
    while (block < blocks_.size() && blocks_[block].size - begin < bytes) {
      ++block;
      begin = 0;
    }
    if (block == blocks_.size()) {
      const std::size_t size = std::max(bytes, smallest_block);
      blocks_.push_back({detail::aligned_bytes(size), size});
    }
    buffers_.push_back({block, begin, begin + bytes, true});
    return blocks_[block].bytes.get() + begin;
  }

  void give_back(const std::byte* bytes) noexcept {
    const auto found = std::find_if(buffers_.rbegin(), buffers_.rend(), [&](const Buffer& buffer) {
      return blocks_[buffer.block].bytes.get() + buffer.begin == bytes;
    });
    if (found != buffers_.rend()) found->in_use = false;
    while (!buffers_.empty() && !buffers_.back().in_use) buffers_.pop_back();
  }

  /// Bytes held, in use or not.
  [[nodiscard]] std::size_t capacity() const noexcept {
    std::size_t sum = 0;
    for (const Block& block : blocks_) sum += block.size;
    return sum;
  }

 private:
  struct Block {
    detail::AlignedBytes bytes;
    std::size_t size;
  };
  struct Buffer {
    std::size_t block, begin, end;
    bool in_use;
  };
  static constexpr std::size_t smallest_block = std::size_t{1} << 16U;

  void merge_blocks() {
    const std::size_t size = capacity();
    blocks_.clear();
    blocks_.push_back({detail::aligned_bytes(size), size});
  }

  std::vector<Block> blocks_;
  std::vector<Buffer> buffers_;
};

}  // namespace mllama
