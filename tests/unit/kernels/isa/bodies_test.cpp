// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <initializer_list>
#include <limits>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include <mllama/kernels/matmul.hpp>

#include "../bfloats.hpp"
#include "../operands.hpp"
#include "../weights.hpp"
#include "emulated.hpp"

/// The bodies of every instruction set, on the scalar emulation of its operations: nothing is unrolled, and what is inlined is the
/// compiler's choice, which takes a tenth of the time to compile.
#undef MLLAMA_INLINE
#undef MLLAMA_UNROLL
#define MLLAMA_INLINE inline
#define MLLAMA_UNROLL
#define MLLAMA_TARGET
namespace mllama::kernels::isa::emulated {
#include <mllama/kernels/isa/bodies.inc>
// Needs the bodies above.
#include <mllama/kernels/isa/matrices.inc>
}  // namespace mllama::kernels::isa::emulated
#undef MLLAMA_TARGET

namespace {

using namespace mllama;
using namespace mllama::kernels;
using mllama_test::Emulated;
using mllama_test::Grid;
using mllama_test::Owned;
using mllama_test::Random;
using mllama_test::same_bits;
using mllama_test::wrong_products;

/// Of products with at least 64 outputs, relative to their norm; see matmul_test.cpp. Float32 sums 256 products in each of four
/// lanes, or less in more of them.
template <class Compute>
constexpr double tolerance = 5e-7;
template <>
constexpr double tolerance<Int16> = 3e-4;
template <>
constexpr double tolerance<Int8> = 1.5e-2;

/// Products of bfloat16 that a body adds up in one lane: of a slot, or, of floats, of a chunk.
template <class Shape>
constexpr std::size_t most_in_lane = Shape::bfloats ? isa::slot : isa::emulated::chunk / (Shape::bytes / sizeof(float));

template <class Shape, class Compute, class F>
isa::Operand emulated_operand(const Weights<F>& w, std::size_t rows) {
  if constexpr (Shape::has_matrices) {
    if (auto of_matrices = isa::emulated::matrix_operand<Emulated<Shape>, Compute>(w, rows); of_matrices.body != nullptr) {
      return of_matrices;
    }
  }
  return isa::emulated::operand<Emulated<Shape>, Compute>(w, rows);
}

/// False if the body does not take the shape.
template <class Shape, class Compute, class F>
bool emulated_product(const Grid& x, const Weights<F>& w, Grid& y) {
  Context<reference> ctx(2);
  const isa::Product product{emulated_operand<Shape, Compute>(w, x.matrix().rows), {}, y.matrix()};
  if (product.weights.body == nullptr) return false;
  isa::multiply(ctx, x.matrix(), {&product, 1});
  return true;
}

template <class Shape, class Compute, class F>
void check_error(Random& random, std::size_t rows, const Weights<F>& w) {
  CAPTURE(rows);
  CAPTURE(w.columns);
  const Grid x(random, rows, w.columns, 1);
  Grid found(rows, w.rows), expected(rows, w.rows);
  REQUIRE(emulated_product<Shape, Compute>(x, w, found));
  Context<reference> ctx(1);
  kernels::matmul(ctx, x.matrix(), w, {}, expected.matrix());
  double square = 0, error = 0;
  for (std::size_t i = 0; i < rows * w.rows; ++i) {
    const double difference = double{found.memory()[i]} - double{expected.memory()[i]};
    error += difference * difference;
    square += double{expected.memory()[i]} * double{expected.memory()[i]};
  }
  CHECK(std::sqrt(error / square) <= tolerance<Compute>);
}

/// An instruction set of the processor against its emulation.
template <class Arch, class Shape>
void compare_bits(Random& random, std::initializer_list<std::size_t> row_counts = {1, 2, 3, 7, 13, 24}) {
  if (!available(Arch::instruction_set)) {
    MESSAGE("skipped: this processor has no ", std::string(name_of(Arch::instruction_set)));
    return;
  }
  const auto compare = [&]<class Compute>(Compute, const auto& w) {
    CAPTURE(Compute::name);
    CAPTURE(w.columns);
    for (const std::size_t rows : row_counts) {
      CAPTURE(rows);
      const Grid x(random, rows, w.columns, 1);
      Grid found(rows, w.rows), expected(rows, w.rows);
      REQUIRE(emulated_product<Shape, Compute>(x, w, expected));
      Context<cpu<Arch, Compute>> ctx(2);
      kernels::matmul(ctx, x.matrix(), w, {}, found.matrix());
      CHECK(same_bits(found.elements(), expected.elements()));
    }
  };
  for (const std::size_t columns : std::initializer_list<std::size_t>{128, 1152}) {
    const Owned<NF4> nf4(random, 21, columns, 128, true);
    const Owned<FP4> fp4(random, 21, columns);
    const Owned<Int8> int8(random, 21, columns);
    const auto check = [&](auto compute) {
      compare(compute, nf4.weights);
      compare(compute, fp4.weights);
      compare(compute, int8.weights);
    };
    check(F32{});
    check(Int16{});
    check(BF16{});
    check(Int8{});
    compare(BF16{}, Owned<F32>(random, 21, columns).weights);
    compare(BF16{}, Owned<BF16>(random, 21, columns).weights);
    compare(BF16{}, Owned<F16>(random, 21, columns).weights);
    compare(F32{}, Owned<F32>(random, 21, columns).weights);
    compare(F32{}, Owned<BF16>(random, 21, columns).weights);
    compare(F32{}, Owned<F16>(random, 21, columns).weights);
  }
}

}  // namespace

TYPE_TO_STRING(isa::Avx2Shape);
TYPE_TO_STRING(isa::AvxVnniShape);
TYPE_TO_STRING(isa::Avx512Shape);
TYPE_TO_STRING(isa::Avx512VnniShape);
TYPE_TO_STRING(isa::Avx512Bf16Shape);
TYPE_TO_STRING(isa::Avx512AmxShape);
TYPE_TO_STRING(isa::NeonDotShape);

TEST_CASE_TEMPLATE("products of bfloat16 are those of the rounded operands, within the bound of sums in float32", Shape,
                   isa::Avx2Shape, isa::Avx512Shape, isa::Avx512Bf16Shape, isa::NeonDotShape) {
  Random random(5);
  const auto check = [&](const auto& w) {
    CAPTURE(w.columns);
    for (std::size_t rows = 1; rows <= 12; ++rows) {
      CAPTURE(rows);
      const Grid x(random, rows, w.columns, rows % 3);
      Grid found(rows, w.rows);
      REQUIRE(emulated_product<Shape, BF16>(x, w, found));
      CHECK(wrong_products(x, w, found, most_in_lane<Shape>) == 0);
    }
  };
  for (const std::size_t columns : std::initializer_list<std::size_t>{128, 256, 384, 1152}) {
    check(Owned<NF4>(random, 51, columns, 64, true).weights);
    check(Owned<FP4>(random, 17, columns, 128).weights);
  }
  for (const std::size_t columns : std::initializer_list<std::size_t>{64, 192, 1088}) {
    check(Owned<Int8>(random, 50, columns).weights);
    check(Owned<BF16>(random, 49, columns).weights);
    check(Owned<F16>(random, 3, columns).weights);
    check(Owned<F32>(random, 47, columns).weights);
  }
}

TEST_CASE_TEMPLATE("in bfloat16, numbers that are not finite stay in their row, zeros and those near them are nearly zeros", Shape,
                   isa::Avx2Shape, isa::Avx512Shape, isa::Avx512Bf16Shape, isa::NeonDotShape) {
  Random random(6);
  const auto check = [&](const auto& w) {
    for (const std::size_t rows : std::initializer_list<std::size_t>{8, 11}) {
      CAPTURE(rows);
      Grid x(random, rows, w.columns);
      const auto row = [&](std::size_t r) { return std::span(x.matrix()[r], w.columns); };
      row(0)[5] = std::numeric_limits<float>::quiet_NaN();
      row(1)[127] = std::numeric_limits<float>::infinity();
      row(2)[64] = -std::numeric_limits<float>::infinity();
      row(3)[64] = 3.4e38F;  // rounded, an infinity
      std::ranges::fill(row(4), -0.0F);
      for (float& number : row(5)) number *= 1e-39F;
      for (std::size_t i = 0; i < w.columns; i += 2) row(6)[i] = std::numeric_limits<float>::denorm_min();
      for (float& number : row(7)) number *= 1e30F;
      Grid found(rows, w.rows);
      REQUIRE(emulated_product<Shape, BF16>(x, w, found));
      CHECK(wrong_products(x, w, found, most_in_lane<Shape>) == 0);
    }
  };
  check(Owned<NF4>(random, 20, 256).weights);
  check(Owned<FP4>(random, 20, 256, 64, true).weights);
  check(Owned<Int8>(random, 20, 256).weights);
  check(Owned<BF16>(random, 20, 256).weights);
  check(Owned<F16>(random, 20, 256).weights);
  Owned<F32> floats(random, 20, 256);
  floats.data[3] = std::numeric_limits<float>::infinity();
  floats.data[260] = std::numeric_limits<float>::quiet_NaN();
  floats.data[520] = 1e-40F;
  check(floats.weights);
}

TEST_CASE_TEMPLATE("bodies of every instruction set compute the reference's products", Shape, isa::Avx2Shape, isa::AvxVnniShape,
                   isa::Avx512Shape, isa::Avx512VnniShape, isa::NeonDotShape) {
  Random random(1);
  const auto check = [&]<class Compute>(Compute) {
    CAPTURE(Compute::name);
    for (const std::size_t columns : std::initializer_list<std::size_t>{128, 1152}) {
      for (const std::size_t rows : std::initializer_list<std::size_t>{1, 7, 9, 23}) {
        check_error<Shape, Compute>(random, rows, Owned<NF4>(random, 67, columns, 64, true).weights);
        check_error<Shape, Compute>(random, rows, Owned<FP4>(random, 65, columns, 128).weights);
        check_error<Shape, Compute>(random, rows, Owned<Int8>(random, 66, columns).weights);
      }
    }
  };
  check(F32{});
  check(Int16{});
  check(Int8{});
  for (const std::size_t columns : std::initializer_list<std::size_t>{64, 1088}) {
    for (const std::size_t rows : std::initializer_list<std::size_t>{1, 7, 9}) {
      check_error<Shape, F32>(random, rows, Owned<F32>(random, 67, columns).weights);
      check_error<Shape, F32>(random, rows, Owned<BF16>(random, 65, columns).weights);
      check_error<Shape, F32>(random, rows, Owned<F16>(random, 64, columns).weights);
    }
  }
}

TEST_CASE_TEMPLATE("bodies leave matrices whose rows are not whole steps, or whose blocks span rows, to others", Shape,
                   isa::Avx2Shape, isa::Avx512Shape, isa::NeonDotShape) {
  Random random(2);
  const auto fits = [&](const auto& w) {
    const Grid x(random, 1, w.columns);
    Grid y(1, w.rows);
    return emulated_product<Shape, Int16>(x, w, y);
  };
  CHECK(fits(Owned<NF4>(random, 3, 256, 64).weights));
  CHECK(fits(Owned<NF4>(random, 3, 256, 256).weights));
  CHECK(!fits(Owned<NF4>(random, 3, 256, 32).weights));
  CHECK(!fits(Owned<NF4>(random, 3, 256, 512).weights));
  CHECK(!fits(Owned<NF4>(random, 3, 96, 32).weights));
  CHECK(!fits(Owned<NF4>(random, 3, 288, 64).weights));
  CHECK(!fits(Owned<Int8>(random, 3, 96).weights));
  CHECK(!fits(Owned<BF16>(random, 3, 100).weights));
  CHECK(!fits(Owned<BF16>(random, 3, 0).weights));
}

TEST_CASE("bodies of bfloat16 do so, too") {
  Random random(7);
  const auto fits = [&](const auto& w, std::size_t rows) {
    const Grid x(random, rows, w.columns);
    Grid y(rows, w.rows);
    return emulated_product<isa::Avx512Bf16Shape, BF16>(x, w, y);
  };
  CHECK(!fits(Owned<NF4>(random, 3, 192, 64).weights, 8));  // a slot more than whole steps
  CHECK(fits(Owned<NF4>(random, 3, 192, 64).weights, 9));   // tiles take slots
  for (const std::size_t rows : std::initializer_list<std::size_t>{1, 9}) {
    CHECK(fits(Owned<NF4>(random, 3, 256, 256).weights, rows));
    CHECK(!fits(Owned<NF4>(random, 3, 256, 512).weights, rows));
    CHECK(!fits(Owned<NF4>(random, 3, 96, 32).weights, rows));
    CHECK(!fits(Owned<NF4>(random, 3, 0).weights, rows));
    CHECK(fits(Owned<Int8>(random, 3, 192).weights, rows));
    CHECK(!fits(Owned<Int8>(random, 3, 96).weights, rows));
    CHECK(!fits(Owned<BF16>(random, 3, 100).weights, rows));
    CHECK(!fits(Owned<F32>(random, 3, 0).weights, rows));
  }
}

TEST_CASE_TEMPLATE("rows have the bits that they have among others; of integers, those of few rows and those of tiles", Shape,
                   isa::Avx2Shape, isa::AvxVnniShape, isa::Avx512Shape, isa::Avx512VnniShape, isa::Avx512Bf16Shape,
                   isa::NeonDotShape) {
  Random random(3);
  const auto check = [&]<class Compute>(Compute, const auto& w, std::size_t of, std::initializer_list<std::size_t> counts) {
    CAPTURE(Compute::name);
    const Grid x(random, of, w.columns);
    Grid all(of, w.rows);
    REQUIRE(emulated_product<Shape, Compute>(x, w, all));
    for (const std::size_t rows : counts) {
      Grid some(rows, w.columns), found(rows, w.rows);
      for (std::size_t r = 0; r < rows; ++r) std::copy_n(x.matrix()[r + 1], w.columns, some.matrix()[r]);
      REQUIRE(emulated_product<Shape, Compute>(some, w, found));
      CHECK(same_bits(found.elements(), std::span(all.memory()).subspan(w.rows, rows * w.rows)));
    }
  };
  const Owned<NF4> nf4(random, 71, 1152);
  const Owned<Int8> int8(random, 71, 1152);
  check(F32{}, nf4.weights, 11, {1, 2, 3, 7});
  check(F32{}, int8.weights, 11, {1, 2, 3, 7});
  check(F32{}, Owned<BF16>(random, 71, 1152).weights, 11, {1, 2, 3, 7});
  const auto check_integers = [&](auto compute, const auto& w) {
    check(compute, w, isa::emulated::most_few_rows, {1, 2, 3, 7});
    check(compute, w, 29, {9, 10, 15, 24});
  };
  check_integers(Int16{}, nf4.weights);
  check_integers(Int8{}, nf4.weights);
  check_integers(Int16{}, int8.weights);
  const auto check_bfloats = [&](const auto& w) {
    if constexpr (Shape::bfloats) {
      check_integers(BF16{}, w);
    } else {
      check(BF16{}, w, 11, {1, 2, 3, 7});
    }
  };
  check_integers(BF16{}, nf4.weights);
  check_bfloats(int8.weights);
  check_bfloats(Owned<BF16>(random, 71, 1152).weights);
  check_bfloats(Owned<F32>(random, 71, 1152).weights);
}

TEST_CASE("matrix registers: products of one term are those of the rounded weights, within the bound of sums in float32") {
  Random random(8);
  const auto check = [&](const auto& w) {
    CAPTURE(w.columns);
    for (const std::size_t rows : std::initializer_list<std::size_t>{9, 16, 17, 33, 49}) {
      CAPTURE(rows);
      Grid x(random, rows, w.columns, rows % 3);
      const auto row = [&](std::size_t r) { return std::span(x.matrix()[r], w.columns); };
      if (rows == 17) {  // see the case of other bodies
        row(0)[5] = std::numeric_limits<float>::quiet_NaN();
        row(1)[63] = -std::numeric_limits<float>::infinity();
        row(3)[4] = 3.4e38F;
        std::ranges::fill(row(4), -0.0F);
        for (float& number : row(16)) number *= 1e-39F;
      }
      Grid found(rows, w.rows);
      REQUIRE(emulated_product<isa::Avx512AmxShape, BF16>(x, w, found));
      CHECK(wrong_products(x, w, found, w.columns, mllama_test::Rounded::weights) == 0);
    }
  };
  check(Owned<NF4>(random, 35, 64, 64, true).weights);
  check(Owned<NF4>(random, 300, 192, 64).weights);  // more than share activations
  check(Owned<FP4>(random, 17, 384, 128).weights);
  check(Owned<Int8>(random, 50, 64).weights);
  check(Owned<BF16>(random, 16, 320).weights);
  check(Owned<F16>(random, 3, 128).weights);
  check(Owned<F32>(random, 47, 64).weights);
}

TEST_CASE("matrix registers: more terms are as accurate as their arithmetic") {
  Random random(9);
  using Shape = isa::Avx512AmxShape;
  for (const std::size_t columns : std::initializer_list<std::size_t>{64, 576}) {
    for (const std::size_t rows : std::initializer_list<std::size_t>{isa::fewest_matrix_rows, 49, 65}) {
      const Owned<NF4> nf4(random, 67, columns, 64, true);
      const Owned<FP4> fp4(random, 33, columns);
      const Owned<Int8> int8(random, 34, columns);
      const auto check = [&]<class Compute>(Compute) {
        check_error<Shape, Compute>(random, rows, nf4.weights);
        check_error<Shape, Compute>(random, rows, fp4.weights);
        check_error<Shape, Compute>(random, rows, int8.weights);
      };
      check(F32{});
      check(Int16{});
      check(Int8{});
      check_error<Shape, F32>(random, rows, Owned<F32>(random, 35, columns).weights);
      check_error<Shape, Int8>(random, rows, Owned<BF16>(random, 33, columns).weights);  // as exact as in float32
      check_error<Shape, F32>(random, rows, Owned<F16>(random, 32, columns).weights);
    }
  }
}

TEST_CASE("matrix registers: rows have the bits that they have among others, and hold what is not finite") {
  Random random(10);
  const auto check = [&]<class Compute>(Compute, const auto& w) {
    CAPTURE(Compute::name);
    constexpr std::size_t of = 71;
    Grid x(random, of, w.columns), all(of, w.rows);
    x.matrix()[1][3] = std::numeric_limits<float>::infinity();
    x.matrix()[20][60] = std::numeric_limits<float>::quiet_NaN();
    REQUIRE(emulated_product<isa::Avx512AmxShape, Compute>(x, w, all));
    const auto numbers = [](const Grid& grid, std::size_t row) {
      std::vector<float> elements(grid.matrix()[row], grid.matrix()[row] + grid.matrix().width);
      for (float& element : elements) element = std::isfinite(element) ? element : std::numeric_limits<float>::infinity();
      return elements;
    };
    for (std::size_t r = 0; r < of; ++r) {
      const bool finite = std::ranges::all_of(numbers(all, r), [](float element) { return std::isfinite(element); });
      CHECK(finite == (r != 1 && r != 20));
    }
    for (const std::size_t rows : std::initializer_list<std::size_t>{50, 64, 69}) {
      Grid some(rows, w.columns), found(rows, w.rows);
      for (std::size_t r = 0; r < rows; ++r) std::copy_n(x.matrix()[r + 1], w.columns, some.matrix()[r]);
      REQUIRE(emulated_product<isa::Avx512AmxShape, Compute>(some, w, found));
      for (std::size_t r = 0; r < rows; ++r) CHECK(same_bits(numbers(found, r), numbers(all, r + 1)));
    }
  };
  const Owned<NF4> nf4(random, 41, 128);
  const Owned<Int8> int8(random, 41, 64);
  check(F32{}, nf4.weights);
  check(Int16{}, nf4.weights);
  check(BF16{}, nf4.weights);
  check(F32{}, int8.weights);
  check(Int8{}, int8.weights);
}

TEST_CASE("products of this processor's instruction sets have the bits of their emulation") {
  Random random(4);
#if MLLAMA_HAS_X86_BODIES
  SUBCASE("avx2") { compare_bits<arch::avx2, isa::Avx2Shape>(random); }
  SUBCASE("avxvnni") { compare_bits<arch::avx_vnni, isa::AvxVnniShape>(random); }
  SUBCASE("avx512") { compare_bits<arch::avx512, isa::Avx512Shape>(random); }
  SUBCASE("avx512vnni") { compare_bits<arch::avx512_vnni, isa::Avx512VnniShape>(random); }
  SUBCASE("avx512bf16") { compare_bits<arch::avx512_bf16, isa::Avx512Bf16Shape>(random); }
  SUBCASE("avx512amx") { compare_bits<arch::avx512_amx, isa::Avx512AmxShape>(random, {1, 9, 49}); }
#elif MLLAMA_HAS_NEON_BODIES
  SUBCASE("neondot") { compare_bits<arch::neon_dot, isa::NeonDotShape>(random); }
#else
  MESSAGE("skipped: no instruction set of this architecture has bodies");
#endif
}

TEST_CASE("a codebook in integers is nearer to the table than with the largest step, and keeps to its bounds") {
  for (const int largest : {63, 127, 8191}) {
    for (const isa::FloatBook& table : {NF4::table, FP4::table}) {
      const isa::IntegerBook book = isa::integer_book(table, largest);
      double error = 0, simple = 0;
      for (std::size_t i = 0; i < 16; ++i) {
        CHECK(std::abs(book.entries[i]) <= largest);
        CHECK(std::abs(book.entries[i] * double{book.step} - double{table[i]}) <= 0.5001 * double{book.step});
        error += std::pow(book.entries[i] * double{book.step} - double{table[i]}, 2);
        simple += std::pow(std::round(double{table[i]} * largest) / largest - double{table[i]}, 2);
      }
      CHECK(error <= simple);
    }
  }
}
