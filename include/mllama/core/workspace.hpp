// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <memory_resource>
#include <new>
#include <utility>
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

/// Where memory comes from that a context, its caches and its intermediate tensors take: the heap, unless the user has an arena. A
/// resource is used by one thread at a time, and outlives what came from it.
using MemorySource = std::pmr::memory_resource;
/// A list whose elements lie there.
template <class T>
using SourcedList = std::pmr::vector<T>;

namespace detail {
/// Aligned bytes of a source. Can be moved, not copied.
class SourcedBytes {
 public:
  SourcedBytes() = default;
  SourcedBytes(MemorySource& source, std::size_t size)
      : source_(&source), bytes_(static_cast<std::byte*>(source.allocate(size, buffer_alignment))), size_(size) {}
  SourcedBytes(SourcedBytes&& other) noexcept
      : source_(other.source_), bytes_(std::exchange(other.bytes_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  SourcedBytes& operator=(SourcedBytes&& other) noexcept {
    std::swap(source_, other.source_);
    std::swap(bytes_, other.bytes_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~SourcedBytes() { reset(); }

  void reset() noexcept {
    if (bytes_ != nullptr) source_->deallocate(std::exchange(bytes_, nullptr), std::exchange(size_, 0), buffer_alignment);
  }
  [[nodiscard]] std::byte* get() const noexcept { return bytes_; }
  [[nodiscard]] std::size_t size() const noexcept { return size_; }

 private:
  MemorySource* source_ = nullptr;
  std::byte* bytes_ = nullptr;
  std::size_t size_ = 0;
};
}  // namespace detail

/// Memory of the intermediate tensors of a forward pass: a stack whose blocks are kept, so that a pass like an earlier one
/// allocates nothing. Buffers may be given back in any order; the stack shrinks when those above have gone.
/// Not for use by two threads at once.
class Workspace {
 public:
  explicit Workspace(MemorySource& source = *std::pmr::new_delete_resource())
      : source_(&source), blocks_(&source), buffers_(&source) {}
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  ~Workspace() = default;

  [[nodiscard]] MemorySource& source() const noexcept { return *source_; }

  [[nodiscard]] std::byte* take(std::size_t bytes) {
    bytes = (std::max<std::size_t>(bytes, 1) + buffer_alignment - 1) / buffer_alignment * buffer_alignment;
    if (buffers_.empty() && blocks_.size() > 1) merge_blocks();
    std::size_t block = buffers_.empty() ? 0 : buffers_.back().block;
    std::size_t begin = buffers_.empty() ? 0 : buffers_.back().end;
    while (block < blocks_.size() && blocks_[block].size() - begin < bytes) {
      ++block;
      begin = 0;
    }
    if (block == blocks_.size()) {
      const std::size_t size = std::max(bytes, smallest_block);
      blocks_.emplace_back(*source_, size);
    }
    buffers_.push_back({block, begin, begin + bytes, true});
    return blocks_[block].get() + begin;
  }

  void give_back(const std::byte* bytes) noexcept {
    const auto found = std::find_if(buffers_.rbegin(), buffers_.rend(),
                                    [&](const Buffer& buffer) { return blocks_[buffer.block].get() + buffer.begin == bytes; });
    if (found != buffers_.rend()) found->in_use = false;
    while (!buffers_.empty() && !buffers_.back().in_use) buffers_.pop_back();
  }

  /// Bytes held, in use or not.
  [[nodiscard]] std::size_t capacity() const noexcept {
    std::size_t sum = 0;
    for (const detail::SourcedBytes& block : blocks_) sum += block.size();
    return sum;
  }

  /// Makes room for buffers of so many bytes in all, so that a pass takes nothing more from the source; nothing if a buffer is in use.
  void reserve(std::size_t bytes) {
    if (!buffers_.empty() || (blocks_.size() == 1 && capacity() >= bytes)) return;
    const std::size_t size = std::max({capacity(), bytes, smallest_block});
    blocks_.clear();
    blocks_.emplace_back(*source_, size);
    buffers_.reserve(64);
  }

 private:
  struct Buffer {
    std::size_t block, begin, end;
    bool in_use;
  };
  static constexpr std::size_t smallest_block = std::size_t{1} << 16U;

  void merge_blocks() {
    const std::size_t size = capacity();
    blocks_.clear();
    blocks_.emplace_back(*source_, size);
  }

  MemorySource* source_;
  std::pmr::vector<detail::SourcedBytes> blocks_;
  std::pmr::vector<Buffer> buffers_;
};

}  // namespace mllama
