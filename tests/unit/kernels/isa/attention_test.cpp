// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include <mllama/kernels/attention.hpp>
#include <mllama/kernels/isa/attention.hpp>

#include "../attention_operands.hpp"
#include "../operands.hpp"
#include "emulated.hpp"

/// Attention's bodies of every instruction set, on the scalar emulation of its operations: see bodies_test.cpp.
#undef MLLAMA_INLINE
#undef MLLAMA_UNROLL
#define MLLAMA_INLINE inline
#define MLLAMA_UNROLL
#define MLLAMA_TARGET
namespace mllama::kernels::isa::emulated {
#include <mllama/kernels/isa/attention.inc>
// Needs the bodies above.
#include <mllama/kernels/isa/attention_words.inc>

inline constexpr std::size_t most_few_rows = 8;
template <class Isa>
void slot_scales(const FourBitMatrix&, std::size_t, float, float*) {}
#include <mllama/kernels/isa/matrices.inc>
// Needs the bodies above.
#include <mllama/kernels/isa/attention_matrices.inc>
}  // namespace mllama::kernels::isa::emulated
#undef MLLAMA_TARGET

namespace {

using namespace mllama;
using kernels::Heads;
using kernels::KeyBlock;
using kernels::isa::AttentionBody;
using mllama_test::all;
using mllama_test::attention_tolerance;
using mllama_test::Block;
using mllama_test::causal;
using mllama_test::Emulated;
using mllama_test::Grid;
using mllama_test::Random;
using mllama_test::relative_error;
using mllama_test::same_bits;
using mllama_test::Sets;

/// By a body, or by the reference if there is none.
std::vector<float> attend(const AttentionBody* body, const Heads& heads, const Grid& q, const std::vector<KeyBlock>& blocks,
                          const Sets& sets, unsigned threads = 2) {
  const std::size_t rows = q.matrix().rows, width = heads.heads * heads.head_dim;
  Grid out(rows, width, 1, 99);
  Context<reference> ctx(threads);
  if (body != nullptr) {
    kernels::isa::attend(ctx, *body, heads, q.matrix(), blocks, sets.view(), out.matrix());
  } else {
    kernels::attention(ctx, heads, q.matrix(), blocks, sets.view(), out.matrix());
  }
  for (std::size_t r = 0; r <= rows; ++r) CHECK(out.memory()[r * (width + 1)] == 99);
  return out.elements();
}

/// Calls `check(heads, q, blocks, sets)` with everything that bodies do differently.
template <class Check>
void each_case(const Check& check) {
  Random random(1);
  const KeyFormat formats[]{KeyFormat::f32, KeyFormat::bf16, KeyFormat::f16, KeyFormat::int8};
  const auto of = [&](const Heads& heads, std::size_t rows, std::size_t keys, std::size_t choice, const Sets& sets) {
    CAPTURE(heads.heads);
    CAPTURE(heads.head_dim);
    CAPTURE(rows);
    CAPTURE(keys);
    kernels::KeptKeys kept[2]{{formats[choice % 4], heads.keys(), keys}, {formats[choice / 4 % 4], heads.keys(), keys}};
    for (auto& each : kept) {
      const auto numbers = random.normals(keys * heads.keys().width());
      each.write(heads.keys(), 0, keys, numbers.data());
    }
    check(heads, Grid(random, rows, heads.heads * heads.head_dim, rows % 3), {{kept[0], kept[1], keys}}, sets);
  };
  std::size_t choice = 0;
  // A single row: tails of steps, tiles and slices; groups of one query, of four, and of four and more.
  for (std::size_t keys = 1; keys <= 300; ++keys) of({4, 2, 16}, 1, keys, choice++, all(1, keys));
  for (const std::size_t dim : std::initializer_list<std::size_t>{1, 3, 8, 17, 80, 128}) {
    for (const Heads& heads : {Heads{1, 1, dim}, Heads{4, 4, dim}, Heads{12, 2, dim}, Heads{5, 1, dim}}) {
      of(heads, 1, 75, choice++, all(1, 75));
      of(heads, 2, 70, choice++, causal(2, 68));
      of(heads, 19, 75, choice++, causal(19, 56));
    }
  }
  // Two slices of a row that are not in their order, and one that ends where a slice begins.
  for (const std::size_t keys : std::initializer_list<std::size_t>{256, 512, 700}) {
    const auto end = static_cast<std::uint32_t>(keys);
    Sets sets;
    sets.add_row({{0, end / 2, end}, {0, 3, 3}, {0, 0, end / 3}});
    of({6, 3, 32}, 1, keys, choice++, sets);
  }
}

void check_error(const AttentionBody& body, double tolerance = attention_tolerance) {
  std::size_t cases = 0;
  each_case([&](const Heads& heads, const Grid& q, const std::vector<KeyBlock>& blocks, const Sets& sets) {
    const auto found = attend(&body, heads, q, blocks, sets);
    CHECK(relative_error(found, attend(nullptr, heads, q, blocks, sets)) <= tolerance);
    if (cases++ % 8 != 0 && q.matrix().rows == 1) return;  // making threads takes longer than what they do
    CHECK(same_bits(found, attend(&body, heads, q, blocks, sets, 1)));
    CHECK(same_bits(found, attend(&body, heads, q, blocks, sets, 5)));
  });
}

/// An instruction set of the processor against its emulation.
[[maybe_unused]] void compare_bits(InstructionSet set, const AttentionBody& body, const AttentionBody& emulated) {
  if (!available(set)) {
    MESSAGE("skipped: this processor has no ", std::string(name_of(set)));
    return;
  }
  each_case([&](const Heads& heads, const Grid& q, const std::vector<KeyBlock>& blocks, const Sets& sets) {
    CHECK(same_bits(attend(&body, heads, q, blocks, sets), attend(&emulated, heads, q, blocks, sets)));
  });
}

template <class Shape>
constexpr const AttentionBody& emulated = kernels::isa::emulated::attention_body<Emulated<Shape>>;
template <class Shape>
constexpr const AttentionBody& emulated_words = kernels::isa::emulated::word_attention_body<Emulated<Shape>, Emulated<Shape>>;

/// Error of attention in words, relative to the largest number: scores have one of 2e-4 of the product of norms of normal queries and keys,
/// as many numbers as a head has are alike.
constexpr double word_tolerance = 2e-3;

}  // namespace

TYPE_TO_STRING(kernels::isa::Avx2Shape);
TYPE_TO_STRING(kernels::isa::Avx512Shape);
TYPE_TO_STRING(kernels::isa::NeonDotShape);

/// The body of an instruction set with matrix registers, for factors of so many terms.
template <std::size_t terms>
constexpr const AttentionBody& emulated_matrices =
    kernels::isa::emulated::matrix_attention_body<Emulated<kernels::isa::Avx512AmxShape>, terms>;

/// Calls `check(heads, q, blocks, sets)` with what bodies for matrix registers do differently: tails of 16 and 32 queries, elements and
/// keys, tiles of keys, blocks of queries, several blocks of keys, rows that see nothing of some tiles or nothing at all.
template <class Check>
void each_matrix_case(const Check& check) {
  Random random(4);
  const auto of = [&](const Heads& heads, std::size_t rows, std::initializer_list<std::size_t> counts, const Sets& sets) {
    CAPTURE(heads.heads);
    CAPTURE(heads.head_dim);
    CAPTURE(rows);
    std::vector<Block> blocks;
    std::vector<KeyBlock> views;
    for (const std::size_t count : counts) blocks.emplace_back(random, heads, count);
    for (std::size_t b = 0; b < blocks.size(); ++b) {
      views.push_back({blocks[b].keys.data(), blocks[b].values.data(), std::data(counts)[b]});
    }
    check(heads, Grid(random, rows, heads.heads * heads.head_dim, 1), views, sets);
  };
  of({1, 1, 8}, 2, {3}, all(2, 3));
  of({2, 1, 80}, 17, {40}, causal(17, 23));
  of({6, 2, 33}, 11, {31}, all(11, 31));
  of({1, 1, 16}, 49, {300}, causal(49, 251));
  of({8, 1, 16}, 135, {33}, all(135, 33));  // more queries than share a tile
  Sets sets;
  sets.add_row({{0, 250, 262}, {1, 0, 5}});
  sets.add_row({{1, 3, 20}});
  for (std::uint32_t row = 0; row < 31; ++row) sets.add_row({{0, row, row + 1}, {0, 256, 256 + row}, {1, 0, row % 3}});
  sets.add_row({});
  of({1, 1, 20}, 34, {290, 20}, sets);
}

template <std::size_t terms>
void check_matrices(double tolerance) {
  each_matrix_case([&](const Heads& heads, const Grid& q, const std::vector<KeyBlock>& blocks, const Sets& sets) {
    const auto found = attend(&emulated_matrices<terms>, heads, q, blocks, sets);
    CHECK(relative_error(found, attend(nullptr, heads, q, blocks, sets)) <= tolerance);
    CHECK(same_bits(found, attend(&emulated_matrices<terms>, heads, q, blocks, sets, 3)));
  });
}

#if MLLAMA_HAS_X86_BODIES
/// The processor's own against it.
template <std::size_t terms>
void compare_matrix_bits() {
  if (!available(InstructionSet::avx512_amx)) {
    MESSAGE("skipped: this processor has no ", std::string(name_of(InstructionSet::avx512_amx)));
    return;
  }
  each_matrix_case([&](const Heads& heads, const Grid& q, const std::vector<KeyBlock>& blocks, const Sets& sets) {
    const auto found =
        attend(&kernels::isa::avx512_amx::matrix_attention_body<kernels::isa::Avx512Amx, terms>, heads, q, blocks, sets);
    CHECK(same_bits(found, attend(&emulated_matrices<terms>, heads, q, blocks, sets)));
  });
}
#endif

TEST_CASE("attention of matrix registers is the reference's, as far as its factors have terms") {
  SUBCASE("three") { check_matrices<3>(attention_tolerance); }
  SUBCASE("two") { check_matrices<2>(3e-5); }
  SUBCASE("one") { check_matrices<1>(1.5e-2); }
}

TEST_CASE("rows of matrix registers do not depend on the others, and hold what is not finite") {
  Random random(5);
  const Heads heads{2, 1, 24};
  const Block block(random, heads, 90);
  const std::vector<KeyBlock> blocks{{block.keys.data(), block.values.data(), 90}};
  Grid q(random, 20, 48);
  q.matrix()[7][30] = std::numeric_limits<float>::quiet_NaN();
  q.matrix()[9][1] = std::numeric_limits<float>::infinity();
  const auto together = attend(&emulated_matrices<3>, heads, q, blocks, all(20, 90));
  Sets begins;  // one of rows that are apart, as it is among others
  for (std::uint32_t row = 0; row < 20; ++row) begins.add_row({{0, row * 4, 90}});
  const auto later = attend(&emulated_matrices<3>, heads, q, blocks, begins);
  for (std::uint32_t row = 10; row < 19; ++row) {
    Grid two(2, 48);
    std::copy_n(q.matrix()[row], 96, two.memory().data());
    Sets of_two;
    for (const std::uint32_t one : {row, row + 1}) of_two.add_row({{0, one * 4, 90}});
    CHECK(same_bits(attend(&emulated_matrices<3>, heads, two, blocks, of_two), std::span(later).subspan(row * 48, 96)));
  }
  for (std::size_t row = 0; row < 20; row += 2) {
    Grid two(2, 48);
    std::copy_n(q.matrix()[row], 96, two.memory().data());
    const auto apart = attend(&emulated_matrices<3>, heads, two, blocks, all(2, 90));
    for (std::size_t i = 0; i < 96; ++i) {
      const bool finite = !(row == 6 && i >= 72) && !(row == 8 && i >= 48 && i < 72);
      CAPTURE(row);
      CAPTURE(i);
      CHECK(std::isfinite(together[row * 48 + i]) == finite);
      if (finite) CHECK(together[row * 48 + i] == apart[i]);
    }
  }
}

TEST_CASE_TEMPLATE("attention of every instruction set is the reference's, whatever the number of threads", Shape,
                   kernels::isa::Avx2Shape, kernels::isa::Avx512Shape, kernels::isa::NeonDotShape) {
  check_error(emulated<Shape>);
}

TEST_CASE_TEMPLATE("attention in words is the reference's within its tolerance, whatever the number of threads", Shape,
                   kernels::isa::Avx2Shape, kernels::isa::Avx512Shape) {
  check_error(emulated_words<Shape>, word_tolerance);
}

TEST_CASE("rows of words depend neither on others nor on keys that they do not see, and hold what is not finite") {
  Random random(6);
  const Heads heads{4, 2, 24};
  Block block(random, heads, 150);
  Grid q(random, 90, 96);
  const auto views = [&] { return std::vector<KeyBlock>{{block.keys.data(), block.values.data(), 150}}; };
  for (const AttentionBody* body : {&emulated_words<kernels::isa::Avx2Shape>, &emulated_words<kernels::isa::Avx512Shape>}) {
    const auto together = attend(body, heads, q, views(), causal(90, 60));
    // Keys of other rows are broken, or large, or in the same pair of values.
    Block other = block;
    for (std::size_t key = 77; key < 150; ++key) {
      for (std::size_t i = 0; i < 48; ++i) {
        other.keys[key * 48 + i] = i % 2 == 0 ? 1e30F : std::numeric_limits<float>::quiet_NaN();
        other.values[key * 48 + i] = i % 3 == 0 ? -1e30F : std::numeric_limits<float>::infinity();
      }
    }
    const std::vector<KeyBlock> broken{{other.keys.data(), other.values.data(), 150}};
    Grid some(17, 96);
    for (std::size_t row = 0; row < 17; ++row) std::copy_n(q.matrix()[row], 96, some.matrix()[row]);
    CHECK(same_bits(attend(body, heads, some, views(), causal(17, 60)), std::span(together).first(17 * 96)));
    const auto beside = attend(body, heads, q, broken, causal(90, 60));
    CHECK(same_bits(std::span(beside).first(17 * 96), std::span(together).first(17 * 96)));
    CHECK(std::ranges::none_of(std::span(beside).subspan(17 * 96), [](float element) { return std::isfinite(element); }));

    Grid bad = q;
    bad.matrix()[3][30] = std::numeric_limits<float>::infinity();
    bad.matrix()[5][95] = std::numeric_limits<float>::quiet_NaN();
    const auto held = attend(body, heads, bad, views(), causal(90, 60));
    for (std::size_t i = 0; i < held.size(); ++i) {
      const std::size_t row = i / 96, head = i % 96 / 24;
      CAPTURE(i);
      if ((row == 3 && head == 1) || (row == 5 && head == 3)) {
        CHECK(std::isnan(held[i]));
      } else {
        CHECK(held[i] == together[i]);
      }
    }
  }
}

TEST_CASE("attention in words of zeros, and of values and keys of all sizes") {
  Random random(8);
  const Heads heads{2, 1, 40};
  const auto error = [&](const Grid& q, const Block& block) {
    const std::vector<KeyBlock> blocks{{block.keys.data(), block.values.data(), 130}};
    const auto expected = attend(nullptr, heads, q, blocks, all(20, 130));
    const double words = relative_error(attend(&emulated_words<kernels::isa::Avx2Shape>, heads, q, blocks, all(20, 130)), expected);
    return std::max(words,
                    relative_error(attend(&emulated_words<kernels::isa::Avx512Shape>, heads, q, blocks, all(20, 130)), expected));
  };
  const Grid q(random, 20, 80);
  const Block normal(random, heads, 130);
  const auto with = [&](auto&& change) {
    Block block = normal;
    for (std::size_t key = 0; key < 130; ++key) {
      for (std::size_t i = 0; i < 40; ++i) change(key, block.keys[key * 40 + i], block.values[key * 40 + i]);
    }
    return block;
  };
  SUBCASE("no keys to choose by") {
    CHECK(error(q, with([](std::size_t, float& k, float&) { k = 0; })) <= word_tolerance);
  }
  SUBCASE("queries of zeros") { CHECK(error(Grid(20, 80), normal) <= word_tolerance); }
  SUBCASE("all values zeros") {
    CHECK(error(q, with([](std::size_t, float&, float& v) { v = 0; })) == 0);
  }
  SUBCASE("some values zeros, or hardly more") {
    CHECK(error(q, with([](std::size_t key, float&, float& v) {
                  v *= key % 3 == 0 ? 0.0F : key % 3 == 1 ? 1e-30F : 1.0F;
                })) <= word_tolerance);
  }
  SUBCASE("values of very different sizes") {
    CHECK(error(q, with([](std::size_t key, float&, float& v) { v *= std::pow(10.0F, static_cast<float>(key % 7)); })) <=
          word_tolerance);
  }
  SUBCASE("one key that nearly all look at, with small values") {
    CHECK(error(q, with([](std::size_t key, float& k, float& v) {
                  if (key == 0) v *= 0.01F;
                  if (key != 0) k *= 0.5F;
                })) <= word_tolerance);
  }
  SUBCASE("large values") {
    CHECK(error(q, with([](std::size_t, float&, float& v) { v *= 1e30F; })) <= word_tolerance);
  }
}

TEST_CASE("attention of this processor's instruction sets has the bits of their emulation") {
#if MLLAMA_HAS_X86_BODIES
  SUBCASE("avx2") {
    compare_bits(InstructionSet::avx2, kernels::isa::avx2::attention_body<kernels::isa::Avx2>, emulated<kernels::isa::Avx2Shape>);
  }
  SUBCASE("avx512") {
    compare_bits(InstructionSet::avx512, kernels::isa::avx512::attention_body<kernels::isa::Avx512>,
                 emulated<kernels::isa::Avx512Shape>);
  }
  SUBCASE("avx2 in words") {
    compare_bits(InstructionSet::avx2, kernels::isa::avx2::word_attention_body<kernels::isa::Avx2, kernels::isa::Avx2>,
                 emulated_words<kernels::isa::Avx2Shape>);
  }
  SUBCASE("avxvnni in words") {
    compare_bits(InstructionSet::avx_vnni, kernels::isa::avx_vnni::word_attention_body<kernels::isa::AvxVnni, kernels::isa::Avx2>,
                 emulated_words<kernels::isa::Avx2Shape>);
  }
  SUBCASE("avx512 in words") {
    compare_bits(InstructionSet::avx512, kernels::isa::avx512::word_attention_body<kernels::isa::Avx512, kernels::isa::Avx512>,
                 emulated_words<kernels::isa::Avx512Shape>);
  }
  SUBCASE("avx512vnni in words") {
    compare_bits(InstructionSet::avx512_vnni,
                 kernels::isa::avx512_vnni::word_attention_body<kernels::isa::Avx512Vnni, kernels::isa::Avx512>,
                 emulated_words<kernels::isa::Avx512Shape>);
  }
  SUBCASE("avx512amx") {
    compare_matrix_bits<1>();
    compare_matrix_bits<2>();
    compare_matrix_bits<3>();
  }
#elif MLLAMA_HAS_NEON_BODIES
  SUBCASE("neondot") {
    compare_bits(InstructionSet::neon_dot, kernels::isa::neon_dot::attention_body<kernels::isa::NeonDot>,
                 emulated<kernels::isa::NeonDotShape>);
  }
#else
  MESSAGE("skipped: no instruction set of this architecture has bodies");
#endif
}

#if MLLAMA_HAS_XSIMD
TEST_CASE("attention of the vectors that the program is compiled for is the reference's") {
  check_error(kernels::isa::compiled::attention_body<kernels::detail::XsimdFloats<arch::native>>);
}
#endif

TEST_CASE("a row that sees numbers which are not finite, or nothing") {
  Random random(3);
  const Heads heads{8, 2, 24};
  std::vector<Block> blocks{Block(random, heads, 90), Block(random, heads, 90)};
  blocks[0].keys[40 * 48 + 3] = std::numeric_limits<float>::quiet_NaN();    // of the first four query heads
  blocks[1].values[50 * 48 + 30] = std::numeric_limits<float>::infinity();  // of the last four
  const Grid q(random, 1, 192);
  const auto view = [&](const Block& block) { return std::vector<KeyBlock>{{block.keys.data(), block.values.data(), 90}}; };
  for (const AttentionBody* body : {&emulated<kernels::isa::Avx2Shape>, &emulated<kernels::isa::Avx512Shape>}) {
    const auto of_key = attend(body, heads, q, view(blocks[0]), all(1, 90)),
               of_value = attend(body, heads, q, view(blocks[1]), all(1, 90));
    for (std::size_t i = 0; i < 192; ++i) {
      CAPTURE(i);
      CHECK(std::isfinite(of_key[i]) == (i >= 96));
      CHECK(std::isfinite(of_value[i]) == (i < 96 || i % 24 != 6));
    }
    Sets nothing;
    nothing.add_row({{0, 5, 5}});
    CHECK(std::ranges::all_of(attend(body, heads, q, view(blocks[0]), nothing), [](float element) { return element == 0; }));
  }
}
