// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include "tiny.hpp"

using namespace mllama;
using namespace mllama_test;

namespace {
constexpr std::size_t width = TextShape<TinyText>::kv_width, layers = TextShape<TinyText>::self_layers;
}

TEST_CASE("growing keeps what a cache holds, and doubles at least") {
  KeyValueCache<TinyText> cache;
  CHECK(cache.length() == 0);
  cache.reserve(3);
  CHECK(cache.capacity() == 3);
  for (std::size_t layer = 0; layer < layers; ++layer) {
    fill_random({cache.keys(layer), 3 * width}, static_cast<std::uint32_t>(layer));
    fill_random({cache.values(layer), 3 * width}, static_cast<std::uint32_t>(100 + layer));
  }
  cache.advance(3);
  cache.reserve(4);
  CHECK(cache.capacity() == 6);
  CHECK(cache.length() == 3);
  std::vector<float> expected(3 * width);
  for (std::size_t layer = 0; layer < layers; ++layer) {
    fill_random(expected, static_cast<std::uint32_t>(layer));
    CHECK(same({cache.keys(layer), 3 * width}, expected));
    fill_random(expected, static_cast<std::uint32_t>(100 + layer));
    CHECK(same({cache.values(layer), 3 * width}, expected));
  }

  SUBCASE("less room than there is, is no change") {
    const float* keys = cache.keys(0);
    cache.reserve(5);
    CHECK(cache.keys(0) == keys);
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
