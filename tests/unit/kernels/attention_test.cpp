// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <span>
#include <vector>

#include <mllama/kernels/attention.hpp>

#include "attention_operands.hpp"
#include "operands.hpp"

namespace {

using namespace mllama;
using kernels::Heads;
using kernels::KeyBlock;
using kernels::KeyRange;
using mllama_test::all;
using mllama_test::attention_tolerance;
using mllama_test::Block;
using mllama_test::causal;
using mllama_test::Grid;
using mllama_test::Random;
using mllama_test::relative_error;
using mllama_test::same_bits;
using mllama_test::Sets;
using mllama_test::Simd;

template <class B>
std::vector<float> attend(const Heads& heads, const Grid& q, const std::vector<KeyBlock>& views, const Sets& sets,
                          unsigned threads = 2) {
  const std::size_t rows = q.matrix().rows;
  Grid out(rows, heads.heads * heads.head_dim, 1, 99);
  Context<B> ctx(threads);
  kernels::attention(ctx, heads, q.matrix(), views, sets.view(), out.matrix());
  for (std::size_t r = 0; r <= rows; ++r) CHECK(out.memory()[r * (heads.heads * heads.head_dim + 1)] == 99);
  return out.elements();
}

template <class B>
std::vector<float> attend(const Heads& heads, const Grid& q, const std::vector<Block>& blocks, const Sets& sets,
                          unsigned threads = 2) {
  std::vector<KeyBlock> views;
  for (const Block& block : blocks) {
    views.push_back({block.keys.data(), block.values.data(), block.keys.size() / (heads.kv_heads * heads.head_dim)});
  }
  return attend<B>(heads, q, views, sets, threads);
}

double error_of(const Heads& heads, const Grid& q, const std::vector<Block>& blocks, const Sets& sets) {
  return relative_error(attend<Simd>(heads, q, blocks, sets), attend<reference>(heads, q, blocks, sets));
}

Grid some_rows(const Grid& from, std::size_t first, std::size_t count) {
  Grid to(count, from.matrix().width);
  for (std::size_t r = 0; r < count; ++r) std::copy_n(from.matrix()[first + r], from.matrix().width, to.matrix()[r]);
  return to;
}

}  // namespace

TEST_CASE("heads of every size and grouping, rows of every number") {
  Random random(1);
  for (const std::size_t dim : std::initializer_list<std::size_t>{1, 2, 3, 4, 5, 7, 12, 16, 80, 128}) {
    for (const Heads& heads : {Heads{1, 1, dim}, Heads{4, 4, dim}, Heads{6, 2, dim}, Heads{5, 1, dim}}) {
      for (const std::size_t rows : std::initializer_list<std::size_t>{1, 2, 17, 70}) {
        CAPTURE(dim);
        CAPTURE(heads.heads);
        CAPTURE(rows);
        const std::vector<Block> blocks{Block(random, heads, rows)};
        const Grid q(random, rows, heads.heads * dim, rows % 3);
        CHECK(error_of(heads, q, blocks, causal(rows)) <= attention_tolerance);
      }
    }
  }
}

TEST_CASE("keys and values in every format, several blocks of them") {
  Random random(7);
  const KeyFormat formats[]{KeyFormat::f32, KeyFormat::bf16, KeyFormat::f16, KeyFormat::int8};
  for (const std::size_t dim : std::initializer_list<std::size_t>{1, 5, 16, 33, 128}) {
    for (const Heads& heads : {Heads{4, 4, dim}, Heads{8, 2, dim}}) {
      for (const std::size_t rows : std::initializer_list<std::size_t>{1, 3, 40}) {
        std::vector<kernels::KeptKeys> kept;
        std::vector<KeyBlock> blocks;
        Sets sets;
        for (std::size_t b = 0; b < 4; ++b) {  // keys in one format, values in another
          const std::size_t count = 61 + 3 * b;
          for (const KeyFormat format : {formats[b], formats[(b + rows) % 4]}) {
            const auto numbers = random.normals(count * heads.keys().width());
            kept.emplace_back(format, heads.keys(), count).write(heads.keys(), 0, count, numbers.data());
          }
          blocks.push_back({kept[2 * b], kept[2 * b + 1], count});
        }
        for (std::size_t r = 0; r < rows; ++r)
          sets.add_row({{0, 0, 61}, {1, 2, 64}, {2, 0, static_cast<std::uint32_t>(1 + r)}, {3, 9, 70}});
        const Grid q(random, rows, heads.heads * dim, rows % 3);
        CAPTURE(dim);
        CAPTURE(rows);
        const auto found = attend<Simd>(heads, q, blocks, sets);
        CHECK(relative_error(found, attend<reference>(heads, q, blocks, sets)) <= attention_tolerance);
        CHECK(same_bits(found, attend<Simd>(heads, q, blocks, sets, 1)));
        CHECK(same_bits(found, attend<Simd>(heads, q, blocks, sets, 3)));
      }
    }
  }
}

TEST_CASE("more query heads of a key head than lanes of a tile") {
  Random random(2);
  const Heads heads{150, 1, 8};
  CHECK(error_of(heads, Grid(random, 5, 150 * 8), {Block(random, heads, 9)}, causal(5, 4)) <= attention_tolerance);
}

TEST_CASE("keys of every number, seen by all rows alike") {
  Random random(3);
  const Heads heads{2, 2, 20};
  for (const std::size_t keys : std::initializer_list<std::size_t>{1, 2, 3, 4, 5, 63, 64, 65, 128, 129, 300}) {
    CAPTURE(keys);
    CHECK(error_of(heads, Grid(random, 37, 40), {Block(random, heads, keys)}, all(37, keys)) <= attention_tolerance);
  }
}

TEST_CASE("ranges over several blocks, in any order, empty ones and empty sets") {
  Random random(4);
  const Heads heads{4, 2, 12};
  const std::vector<Block> blocks{Block(random, heads, 150), Block(random, heads, 3), Block(random, heads, 90)};
  Sets sets;
  sets.add_row({{0, 0, 150}, {1, 0, 3}, {2, 0, 90}});
  sets.repeat_row();
  sets.add_row({});
  sets.add_row({{2, 5, 70}, {0, 60, 61}});
  sets.add_row({{0, 63, 65}, {0, 10, 20}, {0, 100, 140}, {1, 1, 1}});
  sets.add_row({{1, 2, 2}});
  sets.add_row({{1, 0, 3}});
  sets.add_row({{2, 64, 90}});
  sets.repeat_row();
  sets.add_row({});
  const Grid q(random, 10, 48);
  CHECK(error_of(heads, q, blocks, sets) <= attention_tolerance);
  const std::vector<float> out = attend<Simd>(heads, q, blocks, sets);
  for (const std::size_t row : std::initializer_list<std::size_t>{2, 5, 9}) {
    CHECK(std::all_of(out.begin() + static_cast<std::ptrdiff_t>(row * 48), out.begin() + static_cast<std::ptrdiff_t>(row * 48 + 48),
                      [](float element) { return element == 0; }));
  }
}

TEST_CASE("random sets of random ranges") {
  Random random(5);
  const Heads heads{3, 3, 6};
  const std::vector<Block> blocks{Block(random, heads, 200), Block(random, heads, 77)};
  for (int repetition = 0; repetition < 20; ++repetition) {
    Sets sets;
    constexpr std::size_t rows = 170;  // more than share a tile of keys
    for (std::size_t r = 0; r < rows; ++r) {
      const auto begin = static_cast<std::uint32_t>(random.below(120)), gap = static_cast<std::uint32_t>(random.below(30));
      const auto end = begin + static_cast<std::uint32_t>(random.below(50));
      const auto other = static_cast<std::uint32_t>(random.below(78));
      sets.add_row({{0, begin, end},
                    {1, static_cast<std::uint32_t>(random.below(other + 1)), other},
                    {0, end + gap, std::max(end + gap, 200U)}});
    }
    CAPTURE(repetition);
    CHECK(error_of(heads, Grid(random, rows, 18), blocks, sets) <= attention_tolerance);
  }
}

TEST_CASE("the bits of a row depend neither on the number of threads nor on the other rows") {
  Random random(6);
  const Heads heads{6, 2, 10};
  const std::vector<Block> blocks{Block(random, heads, 210)};
  const auto check = [&](std::size_t rows, std::size_t some, std::initializer_list<std::size_t> firsts) {
    const Grid q(random, rows, 60);
    const std::vector<float> together = attend<Simd>(heads, q, blocks, causal(rows, 100), 1);
    for (const unsigned threads : {2U, 3U, 5U}) {
      CHECK(same_bits(attend<Simd>(heads, q, blocks, causal(rows, 100), threads), together));
    }
    for (const std::size_t first : firsts) {
      CAPTURE(first);
      const std::vector<float> separate = attend<Simd>(heads, some_rows(q, first, some), blocks, causal(some, 100 + first));
      CHECK(same_bits(separate, std::span(together).subspan(first * 60, some * 60)));
    }
  };
  // Matrix registers, if the processor has them, sum many rows in another order.
  constexpr std::size_t many = kernels::isa::fewest_matrix_rows;
  check(many - 1, 3, {0, 1, 20, 44});
  check(110, many, {0, 1, 50, 62});
}

TEST_CASE("sequences that are packed into one batch are computed as if alone") {
  Random random(7);
  const Heads heads{4, 2, 16};
  const auto check = [&](std::uint32_t first, std::uint32_t second) {
    const std::vector<Block> blocks{Block(random, heads, first), Block(random, heads, second)};
    const Grid q(random, first + second, 64);
    Sets packed = causal(first);
    for (std::uint32_t r = 0; r < second; ++r) packed.add_row({{1, 0, r + 1}});
    const std::vector<float> together = attend<Simd>(heads, q, blocks, packed);
    const auto alone = [&](std::size_t row, std::size_t count, std::size_t block) {
      return attend<Simd>(heads, some_rows(q, row, count), {blocks[block]}, causal(count));
    };
    CHECK(same_bits(alone(0, first, 0), std::span(together).first(first * 64)));
    CHECK(same_bits(alone(first, second, 1), std::span(together).subspan(first * 64)));
  };
  check(21, 25);
  check(70, 51);  // enough of each for matrix registers
}

TEST_CASE("sequences without a key in common do not share broken numbers") {
  Random random(8);
  const Heads heads{2, 2, 4};
  std::vector<Block> blocks{Block(random, heads, 5), Block(random, heads, 5)};
  Sets sets = causal(5);
  for (std::uint32_t r = 0; r < 5; ++r) sets.add_row({{1, 0, r + 1}});
  const Grid q(random, 10, 8);
  const std::vector<float> clean = attend<Simd>(heads, q, blocks, sets);
  blocks[1].values.assign(blocks[1].values.size(), std::numeric_limits<float>::quiet_NaN());
  const std::vector<float> found = attend<Simd>(heads, q, blocks, sets);
  CHECK(same_bits(std::span(found).first(40), std::span(clean).first(40)));
}

TEST_CASE("swapping heads swaps their outputs, scaling values scales outputs, equal keys average the values") {
  Random random(9);
  const Heads heads{2, 2, 9};
  Block block(random, heads, 70);
  Grid q(random, 8, 18);
  const std::vector<float> out = attend<Simd>(heads, q, {block}, all(8, 70));

  const auto swapped = [](std::vector<float> rows) {
    for (std::size_t r = 0; r < rows.size(); r += 18) {
      std::swap_ranges(rows.begin() + static_cast<std::ptrdiff_t>(r), rows.begin() + static_cast<std::ptrdiff_t>(r + 9),
                       rows.begin() + static_cast<std::ptrdiff_t>(r + 9));
    }
    return rows;
  };
  Block other = block;
  other.keys = swapped(block.keys);
  other.values = swapped(block.values);
  Grid other_q = q;
  other_q.memory() = swapped(q.memory());
  CHECK(same_bits(attend<Simd>(heads, other_q, {other}, all(8, 70)), swapped(out)));

  Block doubled = block;
  for (float& value : doubled.values) value *= 2;
  std::vector<float> expected = out;
  for (float& value : expected) value *= 2;
  CHECK(same_bits(attend<Simd>(heads, q, {doubled}, all(8, 70)), expected));

  Block constant = block;
  for (std::size_t i = 0; i < constant.keys.size(); ++i) {
    constant.keys[i] = 0.5F;
    constant.values[i] = 3;
  }
  const std::vector<float> average = attend<Simd>(heads, q, {constant}, all(8, 70));
  CHECK(std::ranges::all_of(average, [](float element) { return std::abs(element - 3) < 1e-6F; }));
}

TEST_CASE("scores far apart neither overflow nor lose the largest") {
  Random random(10);
  const Heads heads{1, 1, 4};
  Block block(random, heads, 130);
  for (float& key : block.keys) key *= 300;
  CHECK(error_of(heads, Grid(random, 20, 4), {block}, all(20, 130)) <= 1e-4);  // scores of thousands, off by their last digit
}

TEST_CASE("no rows") {
  const Heads heads{1, 1, 4};
  CHECK(attend<Simd>(heads, Grid(0, 4), std::vector<Block>{}, Sets{}).empty());
}
