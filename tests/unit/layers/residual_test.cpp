// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <array>
#include <concepts>

#include <mllama/layers/residual.hpp>

#include "random_rows.hpp"

using namespace mllama;

TEST_CASE("a slice of a stream keeps its gate and its part of the mask") {
  auto x = mllama_test::random_rows<Tokens, 3>(4, 1);
  const std::array<std::uint8_t, 4> mask{1, 0, 0, 1};
  const Residual<Tokens, 3> stream{x, 0.5F, mask};
  const auto slice = stream.slice(2, 2);
  CHECK(slice.y.data() == x.data() + 6);
  CHECK(slice.y.rows() == 2);
  const kernels::Epilogue epilogue = slice.epilogue();
  CHECK(epilogue.accumulate);
  CHECK(epilogue.scale == 0.5F);
  CHECK(epilogue.row_mask == mask.data() + 2);
  CHECK(epilogue.bias == nullptr);
}

TEST_CASE("without a mask all rows are added to") {
  auto x = mllama_test::random_rows<Tokens, 3>(4, 1);
  const Residual<Tokens, 3> stream{x};
  CHECK(stream.slice(1, 2).epilogue().row_mask == nullptr);
  CHECK(stream.epilogue().scale == 1);
}

static_assert(std::same_as<row_axis<Tensor<float, ImageTokens, Dim<5>>>, ImageTokens>);
static_assert(feature_count<View<const float, Tokens, Dim<7>>> == 7);
