// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <array>
#include <vector>

#include <mllama/layers/attention.hpp>
#include <mllama/layers/rope.hpp>
#include <mllama/models/mllama/random.hpp>

#include "heads.hpp"
#include "random_rows.hpp"

using namespace mllama;
using namespace mllama_test;

namespace {

constexpr int width = 24, heads = 4, kv_heads = 2, head_dim = width / heads;
constexpr std::uint32_t seed = 17;
using Global = MultiHeadAttention<F32, width, heads>;
using Causal = SelfAttention<F32, width, heads, kv_heads>;
using States = Tensor<float, Tokens, Dim<width>>;

States zeros(std::size_t rows) {
  States x({rows});
  x.fill(0);
  return x;
}

States attend(const Global& attention, const States& x) {
  Context ctx(1);
  const kernels::KeyBlock block{nullptr, nullptr, x.rows()};
  const VisibilityTables visible = see_everything(x.rows(), {&block, 1}, ctx);
  States out = zeros(x.rows());
  attention.add(x, visible, {out}, ctx);
  return out;
}

/// Keys and values of a sequence of up to 16 rows.
struct Cache {
  kernels::KeptKeys keys{KeyFormat::f32, {kv_heads, head_dim}, 16}, values{KeyFormat::f32, {kv_heads, head_dim}, 16};
  std::size_t past = 0;
};

/// Rows of several sequences, one after the other.
template <class Attention = Causal>
States attend(const Attention& attention, View<const float, Tokens, Dim<width>> rows,
              std::vector<std::pair<Cache*, std::size_t>> parts) {
  Context ctx(1);
  States x({rows.rows()}), out = zeros(rows.rows());
  std::ranges::copy(rows.flat(), x.data());
  std::vector<CachedRows> sequences;
  std::vector<std::int32_t> positions;
  for (const auto& [cache, count] : parts) {
    sequences.push_back({positions.size(), count, cache->past, &cache->keys, &cache->values});
    for (std::size_t r = 0; r < count; ++r) positions.push_back(static_cast<std::int32_t>(cache->past + r));
    cache->past += count;
  }
  attention.add(x, RotaryEmbedding<head_dim>{}(positions, ctx), sequences, {out}, ctx);
  return out;
}

template <class Attention = Causal>
States attend_alone(const Attention& attention, View<const float, Tokens, Dim<width>> rows) {
  Cache cache;
  return attend(attention, rows, {{&cache, rows.rows()}});
}

}  // namespace

TEST_CASE("the order of heads does not matter") {
  const std::array<std::size_t, heads> order{2, 0, 3, 1};
  const auto x = random_rows<Tokens, width>(5, seed);
  SUBCASE("of all") {
    const auto random = random_weights<Global>(seed);
    Global shuffled = *random.model;
    const OwnedMatrix q = with_rows_of(random.model->q_proj, order, head_dim),
                      k = with_rows_of(random.model->k_proj, order, head_dim),
                      v = with_rows_of(random.model->v_proj, order, head_dim),
                      o = with_columns_of(random.model->o_proj, order, head_dim);
    shuffled.q_proj.weight.weights.data = q.data();
    shuffled.k_proj.weight.weights.data = k.data();
    shuffled.v_proj.weight.weights.data = v.data();
    shuffled.o_proj.weight.weights.data = o.data();
    CHECK(difference(attend(shuffled, x).flat(), attend(*random.model, x).flat()) < reordered);
  }
  SUBCASE("of queries that share keys and values") {
    const auto random = random_weights<Causal>(seed);
    Causal shuffled = *random.model;
    const std::array<std::size_t, heads> within{1, 0, 3, 2};
    const OwnedMatrix q = with_rows_of(random.model->q_proj, within, head_dim),
                      o = with_columns_of(random.model->o_proj, within, head_dim);
    shuffled.q_proj.weight.weights.data = q.data();
    shuffled.o_proj.weight.weights.data = o.data();
    CHECK(difference(attend_alone(shuffled, x).flat(), attend_alone(*random.model, x).flat()) < reordered);
  }
}

TEST_CASE("grouped heads are heads with the same keys and values") {
  const auto random = random_weights<Causal>(seed);
  SelfAttention<F32, width, heads, heads> repeated;
  const std::array<std::size_t, heads> group{0, 0, 1, 1};
  const OwnedMatrix k = with_rows_of(random.model->k_proj, group, head_dim),
                    v = with_rows_of(random.model->v_proj, group, head_dim);
  repeated.q_proj = random.model->q_proj;
  repeated.k_proj.weight.weights = {k.data(), width, width};
  repeated.v_proj.weight.weights = {v.data(), width, width};
  repeated.o_proj = random.model->o_proj;
  const auto x = random_rows<Tokens, width>(6, seed);
  Cache cache;
  cache.keys = kernels::KeptKeys(KeyFormat::f32, {heads, head_dim}, 16);
  cache.values = kernels::KeptKeys(KeyFormat::f32, {heads, head_dim}, 16);
  CHECK(difference(attend(repeated, x, {{&cache, 6}}).flat(), attend_alone(*random.model, x).flat()) < reordered);
}

TEST_CASE("without positions, rows in another order give the same rows in that order") {
  const auto random = random_weights<Global>(seed);
  const auto x = random_rows<Tokens, width>(5, seed);
  const auto y = attend(*random.model, x);
  auto reversed = copy(x);
  for (std::size_t r = 0; r < 5; ++r) std::ranges::copy(x[4 - r], reversed[r].begin());
  const auto z = attend(*random.model, reversed);
  for (std::size_t r = 0; r < 5; ++r) CHECK(difference(z[4 - r], y[r]) < reordered);
}

TEST_CASE("causal attention") {
  const auto random = random_weights<Causal>(seed);
  const Causal& attention = *random.model;
  const auto x = random_rows<Tokens, width>(8, seed);
  const auto whole = attend_alone(attention, x);

  SUBCASE("a packed batch is its sequences") {
    Cache a, b, c;
    const auto packed = attend(attention, x, {{&a, 3}, {&b, 1}, {&c, 4}});
    const auto first = attend_alone(attention, x.view().slice(0, 3)), second = attend_alone(attention, x.view().slice(3, 1)),
               third = attend_alone(attention, x.view().slice(4, 4));
    CHECK(difference(packed.view().slice(0, 3).flat(), first.flat()) < reordered);
    CHECK(difference(packed.view().slice(3, 1).flat(), second.flat()) < reordered);
    CHECK(difference(packed.view().slice(4, 4).flat(), third.flat()) < reordered);
  }
  SUBCASE("row by row with a cache is all at once") {
    Cache cache;
    for (std::size_t r = 0; r < 8; ++r) {
      CHECK(difference(attend(attention, x.view().slice(r, 1), {{&cache, 1}}).flat(), whole[r]) < reordered);
    }
  }
  SUBCASE("no row sees what comes after it") {
    auto other = copy(x);
    fill_random(other[5], seed + 1);
    const auto y = attend_alone(attention, other);
    CHECK(same(y.view().slice(0, 5).flat(), whole.view().slice(0, 5).flat()));
    for (const std::size_t r : {5U, 6U, 7U}) CHECK(difference(y[r], whole[r]) > 1e-3);
  }
  SUBCASE("a window forgets what came long before") {
    SelfAttention<F32, width, heads, kv_heads, 3> windowed;
    windowed.q_proj = attention.q_proj;
    windowed.k_proj = attention.k_proj;
    windowed.v_proj = attention.v_proj;
    windowed.o_proj = attention.o_proj;
    const auto near = attend_alone(windowed, x);
    CHECK(difference(near.view().slice(0, 3).flat(), whole.view().slice(0, 3).flat()) < reordered);
    auto other = copy(x);
    fill_random(other[2], seed + 1);
    const auto y = attend_alone(windowed, other);
    CHECK(difference(y[4], near[4]) > 1e-3);
    CHECK(same(y.view().slice(5, 3).flat(), near.view().slice(5, 3).flat()));
  }
}
