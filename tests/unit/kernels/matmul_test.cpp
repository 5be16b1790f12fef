// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

// GCC 12 takes the undefined operands of its own AVX-512 intrinsics for mistakes of Eigen's.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <Eigen/Core>
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
#include <algorithm>
#include <array>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <span>
#include <vector>

#include <mllama/kernels/matmul.hpp>

#include "bfloats.hpp"
#include "operands.hpp"
#include "weights.hpp"

namespace {

using namespace mllama;
using mllama::kernels::Epilogue;
using mllama_test::Grid;
using mllama_test::Owned;
using mllama_test::Random;
using mllama_test::relative_error;
using mllama_test::Rounded;
using mllama_test::same_bits;
using mllama_test::Simd;
using mllama_test::wrong_products;

/// Errors of float32 sums of up to 256 products in each of at least four lanes, relative to the sum of the magnitudes: far below
/// 256 halves of an ulp, as they cancel.
constexpr double product_tolerance = 3e-7;

/// Error of the products of a row of normal activations, relative to their norm. Both roundings have a uniform error over their
/// step: that of activations is 1/8191 or 1/127 of the largest of 64, which is about 2.4 times their norm, 4 in a short row; that of
/// the codebook adds 0.4e-4, and 0.75e-2 where it has 7 bits.
template <class Compute>
constexpr double norm_tolerance = 0;
template <>
constexpr double norm_tolerance<Int16> = 2.5e-4;
/// 2^-9 at most of each activation and each entry or weight; together 2.4e-3 of normal ones, more by chance in a short row.
template <>
constexpr double norm_tolerance<BF16> = 5e-3;
template <>
constexpr double norm_tolerance<Int8> = 1.5e-2;

/// The same where one of 64 activations dominates: √(64 / 12) of the step, and the codebook.
template <class Compute>
constexpr double outlier_tolerance = 0;
template <>
constexpr double outlier_tolerance<Int16> = 3e-4;
template <>
constexpr double outlier_tolerance<BF16> = 5e-3;
template <>
constexpr double outlier_tolerance<Int8> = 2e-2;

template <class Compute>
using Integers = cpu<arch::native, Compute>;

template <class B, class F>
Grid product(const Grid& x, const Weights<F>& weights, unsigned threads = 2, const Epilogue& epilogue = {}, std::size_t slack = 0) {
  Grid y(x.matrix().rows, with_format(weights, [](const auto& w) { return w.rows; }), slack);
  Context<B> ctx(threads);
  kernels::matmul(ctx, x.matrix(), weights, epilogue, y.matrix());
  return y;
}

/// Largest difference from the reference, relative to the sum of the magnitudes that were added.
template <class F>
double error_of(const Grid& x, const Weights<F>& weights) {
  std::vector<float> magnitudes(weights.rows * weights.columns);
  weights.decode(0, magnitudes);
  for (float& element : magnitudes) element = std::abs(element);
  Grid positive = x;
  for (float& element : positive.memory()) element = std::abs(element);
  const std::vector<float> sums =
      product<reference>(positive, Weights<F32>{magnitudes.data(), weights.rows, weights.columns}, 1).elements();
  const std::vector<float> found = product<Simd>(x, weights).elements(), expected = product<reference>(x, weights, 1).elements();
  double most = 0;
  for (std::size_t i = 0; i < sums.size(); ++i) {
    if (found[i] == expected[i]) continue;
    const double error = std::abs(double{found[i]} - double{expected[i]}) / double{sums[i]};
    if (!(error <= most)) most = error;
  }
  return most;
}

/// Largest distance of a row of products from the reference's, relative to the norm of these.
template <class Compute, class F>
double norm_error_of(const Grid& x, const Weights<F>& weights) {
  const std::vector<float> found = product<Integers<Compute>>(x, weights).elements();
  const std::vector<float> expected = product<reference>(x, weights, 1).elements();
  double most = 0;
  for (std::size_t first = 0; first < found.size(); first += weights.rows) {
    double square = 0, error = 0;
    for (std::size_t i = first; i < first + weights.rows; ++i) {
      square += double{expected[i]} * double{expected[i]};
      error += (double{found[i]} - double{expected[i]}) * (double{found[i]} - double{expected[i]});
    }
    if (error == 0) continue;
    const double relative = std::sqrt(error / square);
    if (!(relative <= most)) most = relative;
  }
  return most;
}

/// What an epilogue says, spelled out.
float expected_store(const Epilogue& epilogue, float product, float before, std::size_t row, std::size_t column) {
  if (epilogue.bias != nullptr) product += epilogue.bias[column];
  if (!epilogue.accumulate) return product;
  return epilogue.row_mask != nullptr && epilogue.row_mask[row] == 0 ? before : before + epilogue.scale * product;
}

}  // namespace

TYPE_TO_STRING(F32);
TYPE_TO_STRING(BF16);
TYPE_TO_STRING(F16);
TYPE_TO_STRING(NF4);
TYPE_TO_STRING(FP4);
TYPE_TO_STRING(Int8);
TYPE_TO_STRING(Int16);

TEST_CASE_TEMPLATE("a product of every length, column count and row count is the reference's", F, F32, BF16, F16, NF4, FP4, Int8) {
  Random random(1);
  for (std::size_t columns = 0; columns <= 40; ++columns) {
    for (const std::size_t outputs : std::initializer_list<std::size_t>{1, 2, 3, 4, 5, 8, 17}) {
      for (const std::size_t rows : std::initializer_list<std::size_t>{1, 2, 3, 4, 5, 7}) {
        CAPTURE(columns);
        CAPTURE(outputs);
        CAPTURE(rows);
        const Owned<F> w(random, outputs, columns);
        const Grid x(random, rows, columns, columns % 3);
        CHECK(error_of(x, w.weights) <= product_tolerance);
      }
    }
  }
}

TEST_CASE_TEMPLATE("a product that runs over several panels", F, F32, BF16, F16, NF4, FP4, Int8) {
  Random random(2);
  for (const std::size_t columns : std::initializer_list<std::size_t>{1023, 1024, 1025, 2059}) {
    for (const std::size_t rows : std::initializer_list<std::size_t>{1, 6, 133}) {
      CAPTURE(columns);
      CAPTURE(rows);
      const Owned<F> w(random, 77, columns);
      CHECK(error_of(Grid(random, rows, columns, 3), w.weights) <= product_tolerance);
    }
  }
}

TEST_CASE("blocks of every size, nested and plain, also across rows and starting within a byte") {
  Random random(3);
  for (std::size_t block = 32; block <= 4096; block *= 2) {
    for (const bool nested : {false, true}) {
      for (const std::size_t columns : std::initializer_list<std::size_t>{31, 64, 97, 1280, 2051}) {
        CAPTURE(block);
        CAPTURE(nested);
        CAPTURE(columns);
        const Owned<NF4> w(random, 9, columns, block, nested);
        CHECK(error_of(Grid(random, 3, columns), w.weights) <= product_tolerance);
      }
    }
  }
}

TEST_CASE("decoding a run gives the numbers of the format, wherever it begins and ends") {
  Random random(4);
  const auto check = [](const auto& weights) {
    const std::size_t elements = weights.rows * weights.columns;
    for (std::size_t first = 0; first < 70; ++first) {
      for (const std::size_t count :
           {std::size_t{0}, std::size_t{1}, std::size_t{2}, std::size_t{33}, std::size_t{64}, elements - first}) {
        std::vector<float> expected(count), found(count + 1, 7.0F);
        weights.decode(first, expected);
        kernels::detail::decode_run(weights, first, count, found.data());
        CHECK(found.back() == 7.0F);
        found.pop_back();
        REQUIRE(same_bits(found, expected));
      }
    }
  };
  for (const bool nested : {false, true}) {
    for (const std::size_t block : std::initializer_list<std::size_t>{2, 32, 64})
      check(Owned<NF4>(random, 3, 101, block, nested).weights);
  }
  check(Owned<F32>(random, 3, 101).weights);
  check(Owned<BF16>(random, 3, 101).weights);
  check(Owned<F16>(random, 3, 101).weights);
}

TEST_CASE_TEMPLATE("all 65536 numbers of 16 bits decode as the format says, not-a-numbers to one", F, BF16, F16) {
  std::vector<std::uint16_t> all(65536);
  for (std::size_t i = 0; i < all.size(); ++i) all[i] = static_cast<std::uint16_t>(i);
  std::vector<float> found(all.size());
  kernels::detail::decode_run(Weights<F>{all.data(), 1, all.size()}, 0, all.size(), found.data());
  std::size_t wrong = 0;
  for (std::size_t i = 0; i < all.size(); ++i) {
    const float expected = F::decode(all[i]);
    wrong += std::isnan(expected) ? !std::isnan(found[i]) : !same_bits({&found[i], 1}, {&expected, 1});
  }
  CHECK(wrong == 0);
}

TEST_CASE_TEMPLATE("the bits of a result depend neither on the number of threads nor on the other rows", F, F32, BF16, NF4, FP4,
                   Int8) {
  Random random(5);
  const auto check = [&]<class B>(B, std::size_t columns, std::size_t of, std::initializer_list<std::size_t> counts) {
    CAPTURE(B::compute::name);
    CAPTURE(columns);
    const Owned<F> w(random, 150, columns);
    const Grid x(random, of, columns);
    const std::vector<float> all = product<B>(x, w.weights, 1).elements();
    for (const unsigned threads : {2U, 3U, 7U}) CHECK(same_bits(product<B>(x, w.weights, threads).elements(), all));
    for (const std::size_t first : std::initializer_list<std::size_t>{0, 3, 64, 114}) {
      for (const std::size_t rows : counts) {
        if (first + rows > of) continue;
        CAPTURE(first);
        CAPTURE(rows);
        Grid some(rows, columns, 5);
        for (std::size_t r = 0; r < rows; ++r) std::copy_n(x.matrix()[first + r], columns, some.matrix()[r]);
        const std::vector<float> separate = product<B>(some, w.weights, 2).elements();
        CHECK(same_bits(separate, std::span(all).subspan(first * 150, rows * 150)));
      }
    }
  };
  check(Simd{}, 1300, 131, {1, 2, 3, 4, 7, 8, 9});  // any body
  // The bodies of an instruction set; those of matrix registers, if it has them, sum many rows in another order.
  constexpr std::size_t many = kernels::isa::fewest_matrix_rows;
  check(Simd{}, 1408, many - 1, {1, 2, 3, 4, 7, 8, 9});
  check(Simd{}, 1408, 131, {many, many + 1, 64, 67});
  // In integers and bfloat16, so are few rows.
  const auto check_integers = [&](auto backend) {
    check(backend, 1408, 8, {1, 2, 3, 4, 7, 8});
    check(backend, 1408, many - 1, {9, 10, 12, 15, 16, 17});
    check(backend, 1408, 131, {many, many + 1, 64, 67});
  };
  check_integers(Integers<Int16>{});
  check_integers(Integers<BF16>{});
  check_integers(Integers<Int8>{});
}

TEST_CASE_TEMPLATE("products in integers and bfloat16 are the reference's within their tolerance, for every length", Compute, Int16,
                   BF16, Int8) {
  Random random(13);
  constexpr std::array<std::size_t, 3> row_counts{1, 7, 19};
  for (std::size_t columns = 0; columns <= 300; ++columns) {
    for (std::size_t i = 0; i < row_counts.size(); ++i) {
      if (columns % 32 != 0 && columns % row_counts.size() != i) continue;  // in turn, where no body has steps of this length
      const std::size_t rows = row_counts[i];
      CAPTURE(columns);
      CAPTURE(rows);
      const Grid x(random, rows, columns, columns % 3);
      CHECK(norm_error_of<Compute>(x, Owned<NF4>(random, 51, columns).weights) <= norm_tolerance<Compute>);
      CHECK(norm_error_of<Compute>(x, Owned<FP4>(random, 51, columns, 64, true).weights) <= norm_tolerance<Compute>);
      CHECK(norm_error_of<Compute>(x, Owned<Int8>(random, 51, columns).weights) <= norm_tolerance<Compute>);
      if constexpr (std::same_as<Compute, BF16>) {
        CHECK(norm_error_of<Compute>(x, Owned<F32>(random, 51, columns).weights) <= norm_tolerance<Compute>);
        CHECK(norm_error_of<Compute>(x, Owned<BF16>(random, 51, columns).weights) <= norm_tolerance<Compute>);
        CHECK(norm_error_of<Compute>(x, Owned<F16>(random, 51, columns).weights) <= norm_tolerance<Compute>);
      }
    }
  }
}

TEST_CASE_TEMPLATE("products in integers and bfloat16 with blocks of every size, nested and plain, over several chunks", Compute,
                   Int16, BF16, Int8) {
  Random random(14);
  for (std::size_t block = 32; block <= 4096; block *= 2) {
    for (const bool nested : {false, true}) {
      for (const std::size_t columns : std::initializer_list<std::size_t>{1280, 4096, 8192}) {
        CAPTURE(block);
        CAPTURE(nested);
        CAPTURE(columns);
        const Owned<NF4> w(random, 51, columns, block, nested);
        CHECK(norm_error_of<Compute>(Grid(random, 3, columns), w.weights) <= norm_tolerance<Compute>);
        CHECK(norm_error_of<Compute>(Grid(random, 14, columns), w.weights) <= norm_tolerance<Compute>);
      }
    }
  }
}

TEST_CASE_TEMPLATE("products in integers and bfloat16 of activations with outliers, of zeros, of large and of small ones", Compute,
                   Int16, BF16, Int8) {
  Random random(15);
  std::size_t rows = 0;
  SUBCASE("few rows") { rows = 6; }
  SUBCASE("many rows") { rows = 23; }
  const Owned<NF4> w(random, 200, 1024);
  Grid x(random, rows, 1024);
  const auto row = [&](std::size_t r) { return std::span(x.matrix()[r], 1024); };
  std::ranges::fill(row(2), 0.0F);
  std::ranges::fill(row(3).subspan(64, 640), 0.0F);
  for (float& element : row(4)) element *= 1e30F;
  for (float& element : row(5)) element *= 1e-25F;
  CHECK(norm_error_of<Compute>(x, w.weights) <= norm_tolerance<Compute>);
  for (std::size_t i = 0; i < 1024; i += 100) row(1)[i] *= 20;
  CHECK(norm_error_of<Compute>(x, w.weights) <= outlier_tolerance<Compute>);
  for (std::size_t i = 0; i < 1024; i += 100) row(1)[i] *= 1000;
  CHECK(norm_error_of<Compute>(x, w.weights) <= outlier_tolerance<Compute>);
  // Slots below 2^-100 count as zeros.
  for (float& element : row(0)) element *= 1e-35F;
  const std::vector<float> found = product<Integers<Compute>>(x, w.weights).elements();
  CHECK(std::all_of(found.begin(), found.begin() + 200, [](float element) { return std::abs(element) < 1e-28F; }));
}

TEST_CASE_TEMPLATE("weights in blocks of zeros give zeros in integers and bfloat16", Compute, Int16, BF16, Int8) {
  Random random(16);
  Owned<NF4> w(random, 8, 256);
  std::ranges::fill(w.absmax, 0.0F);
  for (const std::size_t rows : std::initializer_list<std::size_t>{2, 13}) {
    const std::vector<float> found = product<Integers<Compute>>(Grid(random, rows, 256), w.weights).elements();
    CHECK(std::ranges::all_of(found, [](float element) { return element == 0; }));
  }
}

TEST_CASE_TEMPLATE("in integers, a row with an infinity or a not-a-number gives not-a-numbers; others keep theirs", Compute, Int16,
                   Int8) {
  Random random(17);
  const auto check = [&](const auto& weights, std::size_t rows) {
    Grid x(random, rows, 256);
    const std::vector<float> clean = product<Integers<Compute>>(x, weights).elements();
    x.matrix()[1][255] = std::numeric_limits<float>::quiet_NaN();
    x.matrix()[2][0] = -std::numeric_limits<float>::quiet_NaN();
    x.matrix()[4][70] = std::numeric_limits<float>::infinity();
    const std::vector<float> found = product<Integers<Compute>>(x, weights).elements();
    for (std::size_t i = 0; i < found.size(); ++i) {
      const std::size_t row = i / weights.rows;
      if (row == 1 || row == 2 || row == 4) {
        CHECK(std::isnan(found[i]));
      } else {
        CHECK(found[i] == clean[i]);
      }
    }
  };
  if (Context<Integers<Compute>>(1).instruction_set() == InstructionSet::generic) {
    MESSAGE("skipped: this processor has no bodies in integers");
    return;
  }
  for (const std::size_t rows : std::initializer_list<std::size_t>{6, 15}) {
    check(Owned<NF4>(random, 33, 256).weights, rows);
    check(Owned<Int8>(random, 33, 256).weights, rows);
  }
}

TEST_CASE("products in bfloat16 are those of the rounded operands, whatever body the processor has") {
  Random random(20);
  if (Context<Integers<BF16>>(1).instruction_set() == InstructionSet::generic) {
    MESSAGE("skipped: this processor multiplies bfloat16 in float32, unrounded");
    return;
  }
  const auto check = [&](const auto& w) {
    CAPTURE(w.columns);
    for (const std::size_t rows : std::initializer_list<std::size_t>{1, 2, 3, 4, 5, 8, 9, 12, 40}) {
      CAPTURE(rows);
      const Grid x(random, rows, w.columns, rows % 4);
      const bool matrices = Context<Integers<BF16>>(1).instruction_set() == InstructionSet::avx512_amx && rows > 8;
      CHECK(wrong_products(x, w, product<Integers<BF16>>(x, w), matrices ? w.columns : 256,
                           matrices ? Rounded::weights : Rounded::codebooks) == 0);
    }
  };
  for (const std::size_t columns : std::initializer_list<std::size_t>{128, 1280, 2176}) {
    check(Owned<NF4>(random, 67, columns, 64, true).weights);
    check(Owned<FP4>(random, 31, columns, 128).weights);
    check(Owned<Int8>(random, 49, columns).weights);
    check(Owned<BF16>(random, 50, columns).weights);
    check(Owned<F16>(random, 48, columns).weights);
    check(Owned<F32>(random, 5, columns).weights);
  }
  const Owned<NF4> nf4(random, 67, 128);
  const Grid x(random, 12, 128);
  CHECK(wrong_products(x, nf4.weights, product<Simd>(x, nf4.weights), 256) > 300);  // rounding shows
}

TEST_CASE("float weights are multiplied in float32 whatever the arithmetic, unless it is that of bfloat16") {
  Random random(18);
  const Owned<BF16> w(random, 40, 256);
  const Grid x(random, 3, 256);
  const std::vector<float> expected = product<Simd>(x, w.weights).elements();
  CHECK(same_bits(product<Integers<Int16>>(x, w.weights).elements(), expected));
  CHECK(same_bits(product<Integers<Int8>>(x, w.weights).elements(), expected));
  if (Context<Integers<BF16>>(1).instruction_set() == InstructionSet::generic) return;
  CHECK(!same_bits(product<Integers<BF16>>(x, w.weights).elements(), expected));
}

TEST_CASE("a context that names the arithmetic computes as a back end that does") {
  Random random(19);
  const Owned<NF4> w(random, 70, 256);
  for (const std::size_t rows : std::initializer_list<std::size_t>{3, 20}) {
    const Grid x(random, rows, 256);
    Context<cpu<arch::native, AnyPrecision>> ctx(2);
    const auto found = [&] {
      Grid y(rows, 70);
      kernels::matmul(ctx, x.matrix(), w.weights, {}, y.matrix());
      return y.elements();
    };
    CHECK(same_bits(found(), product<Simd>(x, w.weights).elements()));
    ctx.precision(Precision::int16);
    CHECK(same_bits(found(), product<Integers<Int16>>(x, w.weights).elements()));
    ctx.precision(Precision::bf16);
    CHECK(same_bits(found(), product<Integers<BF16>>(x, w.weights).elements()));
    ctx.precision(Precision::int8);
    CHECK(same_bits(found(), product<Integers<Int8>>(x, w.weights).elements()));
  }
}

TEST_CASE("Eigen computes the same dense product") {
  Random random(6);
  for (const std::size_t columns : std::initializer_list<std::size_t>{5, 80, 1280}) {
    const Owned<F32> w(random, 65, columns);
    const Grid x(random, 34, columns);
    using RowMajor = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
    const Eigen::Map<const RowMajor> left(x.matrix().data, 34, static_cast<Eigen::Index>(columns));
    const Eigen::Map<const RowMajor> right(w.data.data(), 65, static_cast<Eigen::Index>(columns));
    const RowMajor expected = left * right.transpose();
    const std::vector<float> found = product<Simd>(x, w.weights).elements();
    CHECK(relative_error(found, {expected.data(), found.size()}) <= 1e-6);  // both sums are float32's
  }
}

TEST_CASE_TEMPLATE("the epilogue adds a bias, scales, keeps masked rows and touches nothing between the rows", B, reference, Simd) {
  Random random(7);
  constexpr std::size_t rows = 6, columns = 70, outputs = 21, slack = 3;
  const Owned<F32> w(random, outputs, columns);
  const Grid x(random, rows, columns);
  const std::vector<float> bias = random.normals(outputs);
  const std::vector<std::uint8_t> mask{1, 0, 0, 255, 1, 0};
  const std::vector<float> plain = product<B>(x, w.weights).elements();
  for (const float* b : {static_cast<const float*>(nullptr), bias.data()}) {
    for (const bool accumulate : {false, true}) {
      for (const std::uint8_t* m : {static_cast<const std::uint8_t*>(nullptr), mask.data()}) {
        const Epilogue epilogue{.bias = b, .accumulate = accumulate, .scale = -1.5F, .row_mask = m};
        Grid y(random, rows, outputs, slack);
        std::vector<float> expected = y.memory();
        for (std::size_t r = 0; r < rows; ++r) {
          for (std::size_t c = 0; c < outputs; ++c) {
            float& element = expected[slack + r * (outputs + slack) + c];
            element = expected_store(epilogue, plain[r * outputs + c], element, r, c);
          }
        }
        Context<B> ctx(2);
        kernels::matmul(ctx, x.matrix(), w.weights, epilogue, y.matrix());
        CHECK(relative_error(y.memory(), expected) <= 1e-6);  // a product and a sum may be fused
      }
    }
  }
}

TEST_CASE("a gate of zero keeps y, scaling x scales the product, a row of zeros gives zeros") {
  Random random(8);
  const Owned<NF4> w(random, 40, 128);
  Grid x(random, 5, 128);
  std::fill_n(x.matrix()[2], 128, 0.0F);
  Grid y(random, 5, 40);
  const std::vector<float> before = y.memory();
  Context<Simd> ctx(2);
  kernels::matmul(ctx, x.matrix(), w.weights, {.accumulate = true, .scale = 0}, y.matrix());
  CHECK(y.memory() == before);

  std::vector<float> once = product<Simd>(x, w.weights).elements();
  CHECK(std::all_of(once.begin() + 80, once.begin() + 120, [](float element) { return element == 0; }));
  for (float& element : x.memory()) element *= 4;
  for (float& element : once) element *= 4;
  CHECK(same_bits(product<Simd>(x, w.weights).elements(), once));
}

TEST_CASE("infinities and not-a-numbers stay in their row") {
  Random random(9);
  const Owned<F32> w(random, 33, 50);
  Grid x(random, 6, 50);
  const std::vector<float> clean = product<Simd>(x, w.weights).elements();
  x.matrix()[1][49] = std::numeric_limits<float>::quiet_NaN();
  x.matrix()[4][0] = std::numeric_limits<float>::infinity();
  const std::vector<float> found = product<Simd>(x, w.weights).elements();
  for (std::size_t i = 0; i < found.size(); ++i) {
    const std::size_t row = i / 33;
    if (row == 1) {
      CHECK(std::isnan(found[i]));
    } else if (row == 4) {
      CHECK(std::isinf(found[i]));
    } else {
      CHECK(found[i] == clean[i]);
    }
  }
}

TEST_CASE("weights of any format are multiplied in the one that they have") {
  Random random(10);
  const Owned<BF16> w(random, 7, 30);
  Weights<Stored> any;
  any.stored = w.weights;
  const Grid x(random, 3, 30);
  CHECK(same_bits(product<Simd>(x, any).elements(), product<Simd>(x, w.weights).elements()));
}

TEST_CASE("no rows: nothing is written; no columns: the bias") {
  Random random(11);
  const Owned<F32> w(random, 4, 8);
  Context<Simd> ctx(2);
  kernels::matmul(ctx, Matrix<const float>{nullptr, 0, 8, 8}, w.weights, {}, Matrix<float>{nullptr, 0, 4, 4});
  const std::vector<float> bias{1, 2, 3, 4};
  const Owned<F32> none(random, 4, 0);
  CHECK(product<Simd>(Grid(1, 0), none.weights, 1, {.bias = bias.data()}).elements() == bias);
}

TEST_CASE("a second product like the first allocates nothing in the workspace") {
  Random random(12);
  const Owned<NF4> w(random, 40, 128);
  const Grid x(random, 5, 128);
  Grid y(5, 40);
  Context<Simd> ctx(2);
  kernels::matmul(ctx, x.matrix(), w.weights, {}, y.matrix());
  const std::size_t held = ctx.workspace().capacity();
  kernels::matmul(ctx, x.matrix(), w.weights, {}, y.matrix());
  CHECK(ctx.workspace().capacity() == held);
}
