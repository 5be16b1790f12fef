// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <random>
#include <utility>
#include <vector>

#include <mllama/core/tensor.hpp>
#include <mllama/core/workspace.hpp>

namespace {

using namespace mllama;
using Buffer = Tensor<std::uint8_t, Rows>;

}  // namespace

TEST_CASE("what is given back is used again: a pass like an earlier one allocates nothing") {
  Workspace workspace;
  const auto pass = [&] {
    Buffer a(workspace, {100000}), b(workspace, {5});
    { const Buffer inner(workspace, {300000}); }
    const Buffer c(workspace, {200000});
    return c.data();
  };
  pass();
  pass();  // the blocks of the first pass have become one
  const std::size_t capacity = workspace.capacity();
  const auto* const where = pass();
  CHECK(pass() == where);
  CHECK(workspace.capacity() == capacity);
}

TEST_CASE("a buffer that outlives one below it keeps its memory") {
  Workspace workspace;
  Buffer kept;
  {
    Buffer below(workspace, {1000});
    kept = Buffer(workspace, {1000});
    kept.fill(7);
  }
  Buffer above(workspace, {1000});
  above.fill(1);
  CHECK(kept.flat().front() == 7);
  CHECK(kept.flat().back() == 7);
}

TEST_CASE("buffers in use never overlap, whatever the order they go in") {
  const unsigned seed = 20261125;
  CAPTURE(seed);
  std::mt19937 random(seed);
  Workspace workspace;
  std::vector<std::pair<Buffer, std::uint8_t>> live;
  for (int step = 0; step < 3000; ++step) {
    if (live.size() > 20 || (!live.empty() && random() % 2 == 0)) {
      const std::size_t index = random() % live.size();
      std::swap(live[index], live.back());
      live.pop_back();
    } else {
      Buffer buffer(workspace, {random() % (random() % 16 == 0 ? 200000U : 3000U)});
      const auto mark = static_cast<std::uint8_t>(random());
      buffer.fill(mark);
      live.emplace_back(std::move(buffer), mark);
    }
    bool whole = true;
    for (const auto& [buffer, mark] : live) {
      whole = whole && reinterpret_cast<std::uintptr_t>(buffer.data()) % buffer_alignment == 0;
      if (buffer.size() != 0) whole = whole && buffer.flat().front() == mark && buffer.flat().back() == mark;
    }
    REQUIRE(whole);
  }
}
