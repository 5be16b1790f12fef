// SPDX-License-Identifier: MIT
#include "allocations.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <memory>
#include <new>

namespace {

std::atomic<std::size_t> count{0};

void* allocate(std::size_t size, std::size_t alignment = alignof(std::max_align_t)) {
  ++count;
  void* memory = nullptr;
  alignment = std::max(alignment, sizeof(void*));  // memory resources also ask for less, which posix_memalign refuses
  if (::posix_memalign(&memory, alignment, size == 0 ? 1 : size) != 0) throw std::bad_alloc();
  return memory;
}
/// Not inlined, or GCC warns at every delete that what comes from new goes to free.
[[gnu::noinline]] void release(void* memory) noexcept { std::free(memory); }

}  // namespace

void* operator new(std::size_t size) { return allocate(size); }
void* operator new[](std::size_t size) { return allocate(size); }
void* operator new(std::size_t size, std::align_val_t alignment) { return allocate(size, static_cast<std::size_t>(alignment)); }
void* operator new[](std::size_t size, std::align_val_t alignment) { return allocate(size, static_cast<std::size_t>(alignment)); }
// std::stable_sort asks so; AddressSanitizer's own would not meet the operators below.
void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
  try {
    return allocate(size);
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}
void operator delete(void* memory) noexcept { release(memory); }
void operator delete[](void* memory) noexcept { release(memory); }
void operator delete(void* memory, std::size_t) noexcept { release(memory); }
void operator delete[](void* memory, std::size_t) noexcept { release(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { release(memory); }
void operator delete[](void* memory, std::align_val_t) noexcept { release(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { release(memory); }
void operator delete[](void* memory, std::size_t, std::align_val_t) noexcept { release(memory); }

std::size_t mllama_test::allocations() noexcept { return count; }

TEST_CASE("allocations are counted") {
  const std::size_t before = mllama_test::allocations();
  struct alignas(128) Wide {
    std::byte bytes[128];
  };
  const auto number = std::make_unique<int>(1);
  const auto wide = std::make_unique<Wide>();
  const std::unique_ptr<int[]> array(new int[7]);
  CHECK(mllama_test::allocations() - before >= 3);
}
