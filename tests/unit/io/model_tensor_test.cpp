// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <array>
#include <cstdint>
#include <mllama/io/model_tensor.hpp>
#include <numeric>
#include <string>
#include <vector>

using namespace mllama;

namespace {

/// Elements 1, 2, 3, … of two bytes.
struct Counted {
  explicit Counted(std::string name, Shape shape) : tensor{std::move(name), Dtype::BF16, std::move(shape), {}} {
    values.resize(tensor.size());
    std::iota(values.begin(), values.end(), std::uint16_t{1});
    tensor.bytes = std::as_bytes(std::span(values));
  }
  std::vector<std::uint16_t> values;
  FileTensor tensor;
};

std::vector<std::uint16_t> arranged(const ModelTensor& tensor) {
  std::vector<std::uint16_t> out(tensor.bytes() / 2, 0xffff);
  detail::rearrange(tensor, reinterpret_cast<std::byte*>(out.data()));
  return out;
}

using Values = std::vector<std::uint16_t>;

}  // namespace

TEST_CASE("the first features of all pairs of a head come first, head by head") {
  const Counted rows("q", {8, 2});
  const ModelTensor tensor{"q", Dtype::BF16, {8, 2}, {&rows.tensor, "file"}, InterleavedRows{4}};
  CHECK_FALSE(tensor.in_place());
  CHECK(arranged(tensor) == Values{1, 2, 5, 6, 3, 4, 7, 8, 9, 10, 13, 14, 11, 12, 15, 16});
  const ModelTensor pair{"q", Dtype::BF16, {8, 2}, {&rows.tensor, "file"}, InterleavedRows{2}};
  CHECK(arranged(pair) == rows.values);
}

TEST_CASE("rows of another tensor follow") {
  const Counted first("first", {2, 2}), rest("rest", {1, 2});
  const ModelTensor tensor{"t", Dtype::BF16, {3, 2}, {&first.tensor, "file"}, JoinedRows{{&rest.tensor, "other"}}};
  CHECK(arranged(tensor) == Values{1, 2, 3, 4, 1, 2});
}

TEST_CASE("a table of tiles becomes a row per aspect ratio, the one of no picture first") {
  const Counted table("t", {3, 3, 1, 2});  // entry (row, column) has 6 · row + 2 · column + 1, + 2
  const std::array<std::array<int, 2>, 4> ratios{{{1, 1}, {1, 3}, {2, 1}, {3, 1}}};
  const ModelTensor tensor{"t", Dtype::BF16, {5, 6}, {&table.tensor, "file"}, TileTable{ratios}};
  CHECK(arranged(tensor) == Values{0, 0, 0, 0, 0,  0,  //
                                   1, 2, 0, 0, 0,  0,  //
                                   1, 2, 3, 4, 5,  6,  //
                                   1, 2, 7, 8, 0,  0,  //
                                   1, 2, 7, 8, 13, 14});
  const Counted square("t", {4, 4, 2, 1});
  const std::array<std::array<int, 2>, 1> two{{{2, 2}}};
  const ModelTensor wide{"t", Dtype::BF16, {2, 8}, {&square.tensor, "file"}, TileTable{two}};
  CHECK(arranged(wide) == Values{0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 9, 10, 11, 12});
}

TEST_CASE("other tensors are the file's bytes") {
  const Counted rows("t", {4, 2});
  const ModelTensor tensor{"t", Dtype::BF16, {2, 2, 2}, {&rows.tensor, "file"}};
  CHECK(tensor.in_place());
  CHECK(tensor.bytes() == 16);
  CHECK(arranged(tensor) == rows.values);
}
