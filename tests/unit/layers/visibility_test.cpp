// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <array>
#include <vector>

#include <mllama/layers/visibility.hpp>

using namespace mllama;

namespace {

/// The keys that a row sees, as block · 100 + key.
std::vector<int> seen(const kernels::Visibility& visible, std::size_t row) {
  std::vector<int> keys;
  for (const kernels::KeyRange& range : visible.of_row(row)) {
    for (std::uint32_t key = range.begin; key < range.end; ++key) keys.push_back(static_cast<int>(range.block * 100 + key));
  }
  return keys;
}

}  // namespace

TEST_CASE("everything: all keys of all blocks") {
  Context ctx(1);
  const std::array<kernels::KeyBlock, 3> blocks{{{nullptr, nullptr, 2}, {nullptr, nullptr, 0}, {nullptr, nullptr, 1}}};
  const VisibilityTables tables = see_everything(2, blocks, ctx);
  for (const std::size_t row : {0U, 1U}) CHECK(seen(tables, row) == std::vector{0, 1, 200});
}

TEST_CASE("the past: each row itself and what came before, or a window of it") {
  Context ctx(1);
  const VisibilityTables all = see_the_past(2, 2, 0, ctx);
  CHECK(seen(all, 0) == std::vector{0, 1, 2});
  CHECK(seen(all, 1) == std::vector{0, 1, 2, 3});
  const VisibilityTables window = see_the_past(0, 4, 2, ctx);
  CHECK(seen(window, 0) == std::vector{0});
  CHECK(seen(window, 1) == std::vector{0, 1});
  CHECK(seen(window, 3) == std::vector{2, 3});
}
