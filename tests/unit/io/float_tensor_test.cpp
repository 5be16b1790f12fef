// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <array>
#include <mllama/io/float_tensor.hpp>
#include <span>
#include <string>
#include <variant>
#include <vector>

using namespace mllama;

namespace {

constexpr std::array<std::uint16_t, 6> halves{0x3fc0, 0xc000, 0x0000, 0x3fc0, 0xc000, 0x0000};  // 1.5, -2, 0 in bfloat16
constexpr std::array<float, 6> floats{1.5F, -2, 0, 1.5F, -2, 0};
const FileTensor bf16{"x", Dtype::BF16, {2, 3}, std::as_bytes(std::span(halves))},
    f32{"x", Dtype::F32, {2, 3}, std::as_bytes(std::span(floats))};

template <class F>
std::vector<float> decoded(const Weights<F>& weights) {
  std::vector<float> values(6);
  weights.decode(0, values);
  return values;
}
const std::vector<float> expected(floats.begin(), floats.end());

}  // namespace

TEST_CASE("in place where the format has the file's type") {
  Elements elements;
  Weights<BF16> narrow;
  REQUIRE(bind_float(narrow, bf16, bf16.shape, elements));
  CHECK(narrow.data == halves.data());
  CHECK(narrow.rows == 2);
  CHECK(narrow.columns == 3);
  Weights<Stored> any;
  REQUIRE(bind_float(any, bf16, bf16.shape, elements));
  CHECK(std::holds_alternative<Weights<BF16>>(any.stored));
  CHECK(decoded(any) == expected);
  REQUIRE(bind_float(any, f32, f32.shape, elements));
  CHECK(std::get<Weights<F32>>(any.stored).data == floats.data());
  CHECK(elements.bytes() == 0);
}

TEST_CASE("widened where the format has float32 only") {
  Elements elements;
  Weights<F32> wide;
  REQUIRE(bind_float(wide, bf16, std::array<std::size_t, 1>{6}, elements));
  CHECK(decoded(wide) == expected);
  CHECK(wide.rows == 6);
  CHECK(wide.columns == 1);
  CHECK(elements.bytes() == 24);
}

TEST_CASE("not at all where the format has neither") {
  Elements elements;
  Weights<BF16> narrow;
  CHECK_FALSE(bind_float(narrow, f32, f32.shape, elements));
  Weights<NF4> codes;
  CHECK_FALSE(bind_float(codes, f32, f32.shape, elements));
  const FileTensor integers{"x", Dtype::I32, {2, 3}, f32.bytes};
  Weights<Stored> any;
  CHECK_FALSE(bind_float(any, integers, integers.shape, elements));
  CHECK_FALSE(any.loaded());
}
