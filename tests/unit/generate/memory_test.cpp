// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <array>
#include <cstddef>
#include <memory>
#include <memory_resource>
#include <new>
#include <span>
#include <vector>

#include <mllama/generate/session.hpp>

#include "allocations.hpp"
#include "padded_prompt.hpp"

using namespace mllama;
using namespace mllama_test;

namespace {

constexpr std::uint32_t seed = 59;

/// Encodes a picture, reads a prompt and takes some steps. Returns all logits.
template <class Ctx>
void converse(const Tiny& model, RandomPicture<>& source, Ctx& ctx, std::vector<float>& logits) {
  const auto picture = std::allocate_shared<const EncodedImage<TinyText>>(std::pmr::polymorphic_allocator<>(&ctx.memory()),
                                                                          model.encode(source.tiles(), Tiny::numerics, ctx));
  Session<Tiny, Ctx> session(model, ctx);
  session.reserve(32);
  const auto keep = [&](std::span<const float> found) { logits.insert(logits.end(), found.begin(), found.end()); };
  const std::array<std::int32_t, 5> prompt{4, image, 5, 6, 7};
  keep(session.append(prompt, {&picture, 1}));
  for (std::int32_t id = 8; id < 20; ++id) keep(session.append({&id, 1}));
}

}  // namespace

TEST_CASE("a context with memory of the caller's takes nothing from the heap, and computes the same") {
  CAPTURE(seed);
  const auto random = random_weights<Tiny>(seed);
  RandomPicture source(seed);
  for (const KeyFormat format : {KeyFormat::f32, KeyFormat::int8}) {
    std::vector<float> expected, found;
    expected.reserve(16 * TinyText::vocab);
    found.reserve(16 * TinyText::vocab);
    Context<> heap(2);
    heap.key_format(format);
    const std::size_t before_heap = allocations();
    converse(*random.model, source, heap, expected);
    CHECK(allocations() - before_heap > 0);

    std::vector<std::byte> bytes(std::size_t{8} << 20U);
    std::pmr::monotonic_buffer_resource arena(bytes.data(), bytes.size(), std::pmr::null_memory_resource());
    Context<> own(arena, 2);
    own.key_format(format);
    own.workspace().reserve(std::size_t{2} << 20U);  // this arena takes nothing back: one block, not one after the other
    const std::size_t reserved = own.workspace().capacity();
    const std::size_t before = allocations();
    converse(*random.model, source, own, found);
    CHECK(allocations() - before == 0);
    CHECK(own.workspace().capacity() == reserved);
    CHECK(found == expected);
  }
}

TEST_CASE("memory of the caller's that is too small is std::bad_alloc") {
  const auto random = random_weights<Tiny>(seed);
  RandomPicture source(seed);
  std::vector<std::byte> bytes(std::size_t{100} << 10U);
  std::pmr::monotonic_buffer_resource arena(bytes.data(), bytes.size(), std::pmr::null_memory_resource());
  Context<> ctx(arena, 2);
  std::vector<float> logits;
  CHECK_THROWS_AS(converse(*random.model, source, ctx, logits), std::bad_alloc);
}
