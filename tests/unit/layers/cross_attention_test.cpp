// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <array>
#include <vector>

#include <mllama/layers/cross_attention.hpp>
#include <mllama/models/mllama/random.hpp>

#include "heads.hpp"
#include "random_rows.hpp"

using namespace mllama;
using namespace mllama_test;

namespace {

constexpr int width = 24, heads = 4, kv_heads = 2, head_dim = width / heads;
constexpr std::uint32_t seed = 23;
using Cross = CrossAttention<F32, width, heads, kv_heads>;
using States = Tensor<float, Tokens, Dim<width>>;
using Pictures = Tensor<float, ImageTokens, Dim<width>>;

/// Keys and values of a picture.
struct Encoded {
  Tensor<float, ImageTokens, Dim<Cross::kv_width>> keys, values;
  Encoded(const Cross& cross, View<const float, ImageTokens, Dim<width>> states) : keys({states.rows()}), values({states.rows()}) {
    Context ctx(1);
    cross.encode(states, keys, values, ctx);
  }
  operator kernels::KeyBlock() const { return {keys.data(), values.data(), keys.rows()}; }
};

/// All rows see all of the pictures.
States attend(const Cross& cross, const States& x, std::span<const kernels::KeyBlock> pictures) {
  Context ctx(1);
  const VisibilityTables visible = see_everything(x.rows(), pictures, ctx);
  const ImageRows rows{0, x.rows(), pictures, visible};
  States out({x.rows()});
  out.fill(0);
  cross.add(x, {&rows, 1}, {out}, ctx);
  return out;
}

}  // namespace

TEST_CASE("cross-attention") {
  const auto random = random_weights<Cross>(seed);
  const Cross& cross = *random.model;
  const auto x = random_rows<Tokens, width>(4, seed);
  const auto picture = random_rows<ImageTokens, width>(7, seed + 1);
  const Encoded whole(cross, picture);
  const std::array<kernels::KeyBlock, 1> one{whole};
  const auto y = attend(cross, x, one);

  SUBCASE("pictures in several blocks, in any order, are one long picture") {
    const Encoded head(cross, picture.view().slice(0, 3)), tail(cross, picture.view().slice(3, 4));
    const std::array<kernels::KeyBlock, 2> blocks{tail, head};
    CHECK(difference(attend(cross, x, blocks).flat(), y.flat()) < reordered);
  }
  SUBCASE("the length of a query and of a picture's states before the projections of keys does not matter") {
    Cross exact = cross;
    exact.q_norm.eps = exact.k_norm.eps = 0;
    const auto expected = attend(exact, x, std::array<kernels::KeyBlock, 1>{Encoded(exact, picture)});
    auto longer = copy(x);
    for (float& value : longer.flat()) value *= 64;
    CHECK(difference(attend(exact, longer, std::array<kernels::KeyBlock, 1>{Encoded(exact, picture)}).flat(), expected.flat()) <
          reordered);
  }
  SUBCASE("the order of heads does not matter") {
    const std::array<std::size_t, heads> order{3, 2, 1, 0};
    const std::array<std::size_t, kv_heads> kv_order{1, 0};
    Cross shuffled = cross;
    const OwnedMatrix q = with_rows_of(cross.q_proj, order, head_dim), k = with_rows_of(cross.k_proj, kv_order, head_dim),
                      v = with_rows_of(cross.v_proj, kv_order, head_dim), o = with_columns_of(cross.o_proj, order, head_dim);
    shuffled.q_proj.weight.weights.data = q.data();
    shuffled.k_proj.weight.weights.data = k.data();
    shuffled.v_proj.weight.weights.data = v.data();
    shuffled.o_proj.weight.weights.data = o.data();
    CHECK(difference(attend(shuffled, x, std::array<kernels::KeyBlock, 1>{Encoded(shuffled, picture)}).flat(), y.flat()) <
          reordered);
  }
  SUBCASE("a packed batch is its sequences; one without pictures gets nothing") {
    const Encoded other(cross, random_rows<ImageTokens, width>(2, seed + 2));
    const std::array<kernels::KeyBlock, 1> two{other};
    Context ctx(1);
    const VisibilityTables first = see_everything(1, one, ctx), last = see_everything(2, two, ctx);
    const std::array<ImageRows, 3> rows{ImageRows{0, 1, one, first}, ImageRows{1, 1, {}, {}}, ImageRows{2, 2, two, last}};
    const auto before = random_rows<Tokens, width>(4, seed + 3);
    auto out = copy(before);
    cross.add(x, rows, {out}, ctx);
    CHECK(same(out[1], before[1]));
    auto expected = copy(before);
    const auto z = attend(cross, x, two);
    for (std::size_t i = 0; i < width; ++i) {
      expected[0][i] += y[0][i];
      for (const std::size_t r : {2U, 3U}) expected[r][i] += z[r][i];
    }
    CHECK(difference(out.flat(), expected.flat()) < reordered);
  }
  SUBCASE("rows see what their set says, and nothing else") {
    Context ctx(1);
    const std::array<std::uint32_t, 4> set_of_row{0, 1, 1, 0};
    const std::array<std::uint32_t, 3> sets{0, 1, 2};
    const std::array<kernels::KeyRange, 2> ranges{{{0, 0, 3}, {0, 3, 7}}};
    const ImageRows rows{0, 4, one, {set_of_row, sets, ranges}};
    States out({4});
    out.fill(0);
    cross.add(x, {&rows, 1}, {out}, ctx);
    const Encoded head(cross, picture.view().slice(0, 3)), tail(cross, picture.view().slice(3, 4));
    const auto a = attend(cross, x, std::array<kernels::KeyBlock, 1>{head}),
               b = attend(cross, x, std::array<kernels::KeyBlock, 1>{tail});
    for (const std::size_t r : {0U, 3U}) CHECK(difference(out[r], a[r]) < reordered);
    for (const std::size_t r : {1U, 2U}) CHECK(difference(out[r], b[r]) < reordered);
  }
}
