// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string_view>
#include <type_traits>
#include <vector>

#include <mllama/kernels/matmul.hpp>

#include "operands.hpp"
#include "weights.hpp"

using namespace mllama;
using mllama::kernels::Epilogue;
using mllama::kernels::ProductWith;
using mllama_test::Grid;
using mllama_test::Owned;
using mllama_test::Random;
using mllama_test::same_bits;

namespace {

/// Counts the regions that the first thread has a part in.
struct Regions {
  std::size_t* count;
  void part(const char*, const char*, unsigned worker, auto&& run) {
    run();
    if (worker == 0) ++*count;
  }
};

/// Three products of the same activations, one by one and together.
template <class B, class F>
struct Three {
  std::array<const Weights<F>*, 3> weights;
  std::array<Epilogue, 3> epilogues{};
  std::size_t regions_apart = 0, regions_together = 0;

  /// Whether they have the same bits.
  bool same(const Grid& x, unsigned threads) {
    Random random(3);
    std::vector<Grid> apart, together;
    for (const Weights<F>* const w : weights) {
      apart.emplace_back(random, x.matrix().rows, with_format(*w, [](const auto& of) { return of.rows; }), apart.size());
      together.push_back(apart.back());
    }
    regions_apart = regions_together = 0;
    for (std::size_t i = 0; i < 3; ++i) {
      Context<B, Regions> ctx(threads, Regions{&regions_apart});
      kernels::matmul(ctx, x.matrix(), *weights[i], epilogues[i], apart[i].matrix());
    }
    Context<B, Regions> ctx(threads, Regions{&regions_together});
    const auto product = [&](std::size_t i) { return ProductWith<F>{*weights[i], epilogues[i], together[i].matrix()}; };
    kernels::matmul(ctx, x.matrix(), product(0), product(1), product(2));
    for (std::size_t i = 0; i < 3; ++i) {
      if (!same_bits(apart[i].memory(), together[i].memory())) return false;
    }
    return true;
  }
};

constexpr std::initializer_list<std::size_t> row_counts{1, 2, 3, 5, 8, 9, 17, 64};

template <class F, class Compute>
void compare_columns(std::size_t columns) {
  using B = std::conditional_t<std::same_as<Compute, reference>, reference, cpu<arch::native, Compute>>;
  Random random(1);
  const Owned<F> q(random, 150, columns), k(random, 37, columns), v(random, 5, columns);
  const std::vector<float> bias = random.normals(150);
  std::vector<std::uint8_t> mask(64);
  for (auto& row : mask) row = static_cast<std::uint8_t>(random.below(2));
  Three<B, F> three{{&q.weights, &k.weights, &v.weights}};
  three.epilogues[0].bias = bias.data();
  three.epilogues[1] = {.accumulate = true, .scale = 0.5F, .row_mask = mask.data()};
  for (const std::size_t rows : row_counts) {
    const Grid x(random, rows, columns, 3);
    for (const unsigned threads : {1U, 3U}) {
      CAPTURE(columns);
      CAPTURE(rows);
      CAPTURE(threads);
      CHECK(three.same(x, threads));
      CHECK(three.regions_together <= three.regions_apart);
    }
  }
}

template <class F, class Compute>
void compare() {  // in bodies' steps or not, one chunk or two
  for (const std::size_t columns : std::initializer_list<std::size_t>{0, 40, 64, 128, 1152}) compare_columns<F, Compute>(columns);
}

}  // namespace

TYPE_TO_STRING(F32);
TYPE_TO_STRING(BF16);
TYPE_TO_STRING(F16);
TYPE_TO_STRING(NF4);
TYPE_TO_STRING(FP4);
TYPE_TO_STRING(Int8);

TEST_CASE_TEMPLATE("products together are those one by one, bit for bit", F, F32, BF16, F16, NF4, FP4, Int8) {
  SUBCASE("reference") { compare<F, reference>(); }
  SUBCASE("F32") { compare<F, F32>(); }
  SUBCASE("Int16") { compare<F, Int16>(); }
  SUBCASE("BF16") { compare<F, BF16>(); }
  SUBCASE("Int8") { compare<F, Int8>(); }
  SUBCASE("LLMInt8") { compare<F, LLMInt8>(); }
}

TEST_CASE("products together prepare activations once, in one region") {
  using B = cpu<arch::native, Int16>;
  Random random(2);
  const Owned<NF4> q(random, 150, 128), k(random, 37, 128), v(random, 5, 128), nested(random, 37, 128, 128, true);
  for (const std::size_t rows : row_counts) {
    CAPTURE(rows);
    const Grid x(random, rows, 128);
    Three<B, NF4> three{{&q.weights, &k.weights, &v.weights}};
    CHECK(three.same(x, 2));
    if (Context<B>(1).instruction_set() != InstructionSet::generic) {
      CHECK(three.regions_apart == 6);
      CHECK(three.regions_together == 2);
    }
    three.weights[1] = &nested.weights;  // other blocks and scales
    CHECK(three.same(x, 2));
  }
}

TEST_CASE("products whose matrices a file stores in different formats: those that are alike are computed together") {
  using Any = AnyOf<NF4, BF16>;
  using B = cpu<arch::native, Int8>;
  Random random(4);
  const Owned<NF4> q(random, 150, 128), k(random, 37, 128);
  const Owned<BF16> v(random, 5, 128);
  Weights<Any> of_q{q.weights}, of_k{k.weights}, of_v{v.weights};
  const Grid x(random, 5, 128);
  Three<B, Any> mixed{{&of_q, &of_k, &of_v}}, alike{{&of_q, &of_k, &of_k}};
  CHECK(mixed.same(x, 2));
  CHECK(alike.same(x, 2));
  if (Context<B>(1).instruction_set() != InstructionSet::generic) {
    CHECK(mixed.regions_apart - mixed.regions_together == 2);
    CHECK(alike.regions_apart - alike.regions_together == 4);
  }
}

TEST_CASE("blocks of which a body takes some only") {
  using B = cpu<arch::native, Int8>;
  Random random(5);
  const Owned<NF4> q(random, 150, 128), k(random, 37, 128, 32), v(random, 5, 128);
  for (const std::size_t rows : row_counts) {
    Three<B, NF4> three{{&q.weights, &k.weights, &v.weights}};
    CAPTURE(rows);
    CHECK(three.same(Grid(random, rows, 128), 2));
    CHECK(three.regions_together <= three.regions_apart);
  }
}
