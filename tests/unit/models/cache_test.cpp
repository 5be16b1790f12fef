// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include "tiny.hpp"

using namespace mllama;
using namespace mllama_test;

namespace {
constexpr std::size_t width = TextShape<TinyText>::kv_width, layers = TextShape<TinyText>::self_layers;
}

TEST_CASE("a cache in another format takes its share of the memory, and keeps its codes when it grows") {
  const std::size_t floats = 2 * layers * 3 * width * sizeof(float);
  KeyValueCache<TinyText> exact;
  exact.reserve(3);
  CHECK(exact.bytes() == floats);
  for (const auto& [format, bytes] :
       {std::pair(KeyFormat::bf16, floats / 2), std::pair(KeyFormat::f16, floats / 2),
        std::pair(KeyFormat::int8, floats / 4 + 2 * layers * 3 * TinyText::kv_heads * sizeof(float))}) {
    KeyValueCache<TinyText> cache(format);
    cache.reserve(3);
    CHECK(cache.bytes() == bytes);
    constexpr kernels::KeyShape shape = TextShape<TinyText>::keys;
    std::vector<float> rows(3 * width), before;
    fill_random(rows, 1);
    cache.keys(1).write(shape, 0, 3, rows.data());
    const auto read = [&] {
      std::vector<float> elements;
      for (std::size_t i = 0; i < rows.size(); ++i)
        elements.push_back(kernels::key_element(cache.keys(1), shape, i / width, i % width / shape.dim, i % shape.dim));
      return elements;
    };
    before = read();
    CHECK(difference(before, rows) < 1e-2);
    cache.advance(3);
    cache.reserve(7);
    CHECK(cache.capacity() == 7);
    CHECK(same(read(), before));
  }
}

TEST_CASE("growing keeps what a cache holds, and doubles at least") {
  KeyValueCache<TinyText> cache;
  CHECK(cache.length() == 0);
  cache.reserve(3);
  CHECK(cache.capacity() == 3);
  for (std::size_t layer = 0; layer < layers; ++layer) {
    fill_random({cache.keys(layer).floats(), 3 * width}, static_cast<std::uint32_t>(layer));
    fill_random({cache.values(layer).floats(), 3 * width}, static_cast<std::uint32_t>(100 + layer));
  }
  cache.advance(3);
  cache.reserve(4);
  CHECK(cache.capacity() == 6);
  CHECK(cache.length() == 3);
  std::vector<float> expected(3 * width);
  for (std::size_t layer = 0; layer < layers; ++layer) {
    fill_random(expected, static_cast<std::uint32_t>(layer));
    CHECK(same({cache.keys(layer).floats(), 3 * width}, expected));
    fill_random(expected, static_cast<std::uint32_t>(100 + layer));
    CHECK(same({cache.values(layer).floats(), 3 * width}, expected));
  }

  SUBCASE("less room than there is, is no change") {
    const float* keys = cache.keys(0).floats();
    cache.reserve(5);
    CHECK(cache.keys(0).floats() == keys);
    CHECK(cache.capacity() == 6);
  }
  SUBCASE("a truncated cache keeps its memory") {
    cache.truncate(1);
    CHECK(cache.length() == 1);
    CHECK(cache.capacity() == 6);
    cache.truncate(9);
    CHECK(cache.length() == 1);
  }
}
