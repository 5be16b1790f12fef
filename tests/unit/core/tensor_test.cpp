// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <limits>
#include <new>
#include <numeric>
#include <type_traits>
#include <utility>

#include <mllama/core/tensor.hpp>

namespace {

using namespace mllama;

static_assert(std::is_convertible_v<View<float, Tokens, Dim<4>>, View<const float, Tokens, Dim<4>>>);
static_assert(!std::is_convertible_v<View<const float, Tokens, Dim<4>>, View<float, Tokens, Dim<4>>>, "const is not cast away");
static_assert(!std::is_convertible_v<View<float, Tokens, Dim<4>>, View<float, ImageTokens, Dim<4>>>,
              "rows of different meaning do not mix");
static_assert(!std::is_convertible_v<View<float, Tokens, Dim<4>>, View<float, Tokens, Dim<8>>>, "nor do widths");
static_assert(!std::is_copy_constructible_v<Tensor<float, Tokens, Dim<4>>>, "a copy of a tensor is written out");
static_assert(View<float, Dim<2>, Dim<3>>::run_time_rank == 0 && View<float, Dim<2>, Tokens>::run_time_rank == 1);

bool aligned(const void* pointer) { return reinterpret_cast<std::uintptr_t>(pointer) % buffer_alignment == 0; }

}  // namespace

TEST_CASE("a view knows its lengths, rows and slices") {
  float numbers[24];
  std::iota(numbers, numbers + 24, 0.0F);
  const View<float, Tokens, Dim<4>> view(numbers, {6});
  CHECK(view.length(0) == 6);
  CHECK(view.length(1) == 4);
  CHECK(view.size() == 24);
  CHECK(view[2][1] == 9);
  const auto middle = view.slice(2, 3);
  CHECK(middle.rows() == 3);
  CHECK(middle[0].data() == view[2].data());
  CHECK(view.slice(6, 0).size() == 0);
  const Matrix<const float> matrix = view;
  CHECK(matrix.rows == 6);
  CHECK(matrix.width == 4);
  CHECK(matrix[5][3] == 23);
  const auto cube = view.as<Dim<2>, Tokens, Dim<2>>({6});
  CHECK(cube.length(0) == 2);
  CHECK(cube.length(1) == 6);
  CHECK(cube.length(2) == 2);
  CHECK(View<float, Tokens, Dim<4>>(numbers, {0}).slice(0, 0).rows() == 0);
}

TEST_CASE("a tensor owns aligned memory, can be moved, and may be empty") {
  Tensor<float, Tokens, Dim<3>> a({5});
  CHECK(aligned(a.data()));
  a.fill(2);
  const float* const data = a.data();
  Tensor<float, Tokens, Dim<3>> b(std::move(a));
  CHECK(b.data() == data);
  CHECK(b.rows() == 5);
  CHECK(b[4][2] == 2);
  Tensor<float, Tokens, Dim<3>> c;
  CHECK(c.size() == 0);
  c = std::move(b);
  CHECK(c.data() == data);
  CHECK(Tensor<float, Tokens, Dim<3>>({0}).size() == 0);
}

TEST_CASE("lengths whose product does not fit are refused before anything is allocated") {
  using Wide = Tensor<double, Rows, Rows, Dim<1000>>;
  constexpr std::size_t most = std::numeric_limits<std::size_t>::max();
  CHECK_THROWS_AS(Wide({most, 1}), std::bad_alloc);
  CHECK_THROWS_AS(Wide({most / 1000, 1000}), std::bad_alloc);
  CHECK(Wide({0, most}).size() == 0);
}
