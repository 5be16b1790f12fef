// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <deque>
#include <vector>

#include <mllama/layers/lora.hpp>
#include <mllama/models/mllama/random.hpp>

#include "random_rows.hpp"

using namespace mllama;
using namespace mllama_test;

namespace {

constexpr int in = 37, out = 21;  // no multiple of anything; blocks of 64 span rows
constexpr std::uint32_t seed = 31;

/// A product of changed weights, and a product and its changes, round differently; magnitudes divide by lengths of rows.
constexpr double merged_tolerance = 1e-5;

enum class Kind { plain, biased, magnitudes };

/// Changes with random numbers, each the only one of its adapter.
class Changes {
 public:
  const LowRankBranch& add(Kind kind, std::size_t rows, std::size_t columns, std::size_t rank, double scale) {
    Branch& added = branches_.emplace_back();
    const auto numbers = [&](std::size_t count) -> const float* {
      std::vector<float>& values = memory_.emplace_back(count);
      fill_random(values, seed + static_cast<std::uint32_t>(memory_.size()));
      return values.data();
    };
    LowRank& change = added.branch.change;
    change = {.a = {numbers(rank * columns), rank, columns}, .b = {numbers(rows * rank), rows, rank}, .scale = scale};
    if (kind == Kind::biased) change.bias = numbers(rows);
    if (kind == Kind::magnitudes) change.magnitude = numbers(rows);
    added.branch.adapter = &added.state;
    return added.branch;
  }
  template <class Layer>
  void attach(Layer& layer) {
    Context ctx(2);
    for (auto& [state, branch] : branches_) {
      if (branch.has_magnitude()) branch.squares = row_squares(ctx, layer.weight.weights, branch.change);
      layer.branches.attach(branch);
    }
  }
  [[nodiscard]] AdapterState& state(std::size_t index) { return branches_[index].state; }
  /// Those that are on.
  [[nodiscard]] std::vector<ScaledLowRank> active() const {
    std::vector<ScaledLowRank> changes;
    for (const auto& [state, branch] : branches_) {
      if (state.on) changes.push_back({branch.change, state.factor});
    }
    return changes;
  }

 private:
  struct Branch {
    AdapterState state;
    LowRankBranch branch;
  };
  std::deque<Branch> branches_;
  std::deque<std::vector<float>> memory_;
};

template <class F>
using Adaptable = Linear<LoRA<F>, in, out, true>;

/// The product with the weights and the bias that the changes make of a linear's.
template <class F>
std::vector<float> merged_product(const Adaptable<F>& linear, const Changes& changes, const Tensor<float, Rows, Dim<in>>& x) {
  std::vector<float> weights(in * out), bias(linear.bias.data(), linear.bias.data() + out), y;
  linear.weight.weights.decode(0, weights);
  merge(changes.active(), 0, {weights.data(), out, in, in}, bias);
  for (std::size_t r = 0; r < x.rows(); ++r) {
    for (std::size_t o = 0; o < out; ++o) {
      double sum = double{bias[o]};
      for (std::size_t i = 0; i < in; ++i) sum += double{x[r][i]} * double{weights[o * in + i]};
      y.push_back(static_cast<float>(sum));
    }
  }
  return y;
}

}  // namespace

TYPE_TO_STRING(F32);
TYPE_TO_STRING(NF4);
TYPE_TO_STRING(Int8);
TYPE_TO_STRING(Stored);

TEST_CASE_TEMPLATE("unmerged changes are merged ones", F, F32, NF4, Int8, Stored) {
  CAPTURE(seed);
  const auto random = random_weights<Adaptable<F>>(seed);
  Adaptable<F>& linear = *random.model;
  const auto x = random_rows<Rows, in>(5, seed);
  Context ctx(2);
  Changes changes;
  SUBCASE("one") { changes.add(Kind::plain, out, in, 3, 0.7); }
  SUBCASE("one with a bias") { changes.add(Kind::biased, out, in, 3, 0.7); }
  SUBCASE("one with magnitudes") { changes.add(Kind::magnitudes, out, in, 3, 0.7); }
  SUBCASE("several, in their order") {
    changes.add(Kind::plain, out, in, 1, 0.7);
    changes.add(Kind::magnitudes, out, in, 5, 0.2);
    changes.add(Kind::biased, out, in, 2, -0.4);
    changes.add(Kind::magnitudes, out, in, 40, 0.1);
  }
  changes.attach(linear);
  const auto y = linear(x, ctx);
  CHECK(difference(y.flat(), merged_product<F>(linear, changes, x)) < merged_tolerance);

  SUBCASE("however strong they are, and whichever are on") {
    for (const double factor : {0.0, 0.3, -2.0, 1.0}) {
      CAPTURE(factor);
      changes.state(0).factor = factor;
      CHECK(difference(linear(x, ctx).flat(), merged_product<F>(linear, changes, x)) < merged_tolerance);
    }
    CHECK(same(linear(x, ctx).flat(), y.flat()));
    changes.state(0).on = false;
    CHECK(difference(linear(x, ctx).flat(), merged_product<F>(linear, changes, x)) < merged_tolerance);
  }
  SUBCASE("in memory of the caller's") {
    auto into = random_rows<Rows, out>(5, seed + 2);
    linear.into(x, into.view(), ctx);
    CHECK(same(into.flat(), y.flat()));
  }
  SUBCASE("together with a linear that is not changed") {
    const auto other = random_weights<Adaptable<F>>(seed + 3);
    const auto [changed, unchanged] = project(x, ctx, linear, *other.model);
    CHECK(same(changed.flat(), y.flat()));
    CHECK(same(unchanged.flat(), (*other.model)(x, ctx).flat()));
  }
  SUBCASE("added to a stream: scaled by the gate, and only in the rows of the mask") {
    const std::vector<std::uint8_t> mask{1, 0, 1, 1, 0};
    const auto before = random_rows<Rows, out>(5, seed + 1);
    auto stream = copy(before);
    linear.add(x, {stream, 0.25F, mask}, ctx);
    auto expected = copy(before);
    for (std::size_t r = 0; r < 5; ++r) {
      for (std::size_t o = 0; o < out; ++o) expected[r][o] += mask[r] * 0.25F * y[r][o];
    }
    CHECK(difference(stream.flat(), expected.flat()) < reordered);
    CHECK(same(stream[1], before[1]));
    CHECK(same(stream[4], before[4]));

    auto all_rows = copy(before);
    linear.add(x, {all_rows}, ctx);
    for (std::size_t i = 0; i < y.size(); ++i) expected.data()[i] = before.data()[i] + y.data()[i];
    CHECK(difference(all_rows.flat(), expected.flat()) < reordered);
  }
  SUBCASE("on any number of threads") {
    Context one(1);
    CHECK(same(linear(x, one).flat(), y.flat()));
  }
  SUBCASE("rows do not depend on each other") {
    const auto row = linear(x.view().slice(3, 1), ctx);
    CHECK(same(row[0], y[3]));
  }
  SUBCASE("without rows nothing happens") { CHECK(linear(random_rows<Rows, in>(0, seed), ctx).size() == 0); }
}

TEST_CASE("changes that change nothing") {
  CAPTURE(seed);
  const auto random = random_weights<Adaptable<F32>>(seed);
  Adaptable<F32>& linear = *random.model;
  const Linear<F32, in, out, true>& plain = linear;
  const auto x = random_rows<Rows, in>(5, seed);
  Context ctx(1);
  const auto y = plain(x, ctx);
  CHECK(same(linear(x, ctx).flat(), y.flat()));

  Changes changes;
  const std::vector<float> zeros(out * 3);
  SUBCASE("b = 0") {
    LowRank zero = changes.add(Kind::plain, out, in, 3, 2).change;
    zero.b.data = zeros.data();
    LowRankBranch branch{.change = zero, .adapter = &changes.state(0), .squares = {}};
    linear.branches.attach(branch);
    CHECK(same(linear(x, ctx).flat(), y.flat()));
  }
  SUBCASE("scale 0") {
    changes.add(Kind::biased, out, in, 3, 2);
    changes.attach(linear);
    CHECK_FALSE(same(linear(x, ctx).flat(), y.flat()));
    changes.state(0).factor = 0;
    CHECK(same(linear(x, ctx).flat(), y.flat()));
  }
  SUBCASE("off") {
    changes.add(Kind::magnitudes, out, in, 3, 2);
    changes.attach(linear);
    CHECK_FALSE(same(linear(x, ctx).flat(), y.flat()));
    changes.state(0).on = false;
    CHECK(same(linear(x, ctx).flat(), y.flat()));
    auto stream = random_rows<Rows, out>(5, seed + 1), expected = copy(stream);
    linear.add(x, {stream, 0.5F}, ctx);
    plain.add(x, {expected, 0.5F}, ctx);
    CHECK(same(stream.flat(), expected.flat()));
  }
  SUBCASE("the magnitudes that the rows have") {
    LowRank change = changes.add(Kind::plain, out, in, 3, 2).change;
    std::vector<float> weights(in * out), lengths;
    linear.weight.weights.decode(0, weights);
    merge(std::array{ScaledLowRank{change}}, 0, {weights.data(), out, in, in});
    for (std::size_t o = 0; o < out; ++o) {
      lengths.push_back(static_cast<float>(std::sqrt(detail::sum_of_squares({weights.data() + o * in, in}))));
    }
    change.magnitude = lengths.data();
    AdapterState state;
    LowRankBranch branch{.change = change, .adapter = &state, .squares = row_squares(ctx, linear.weight.weights, change)};
    linear.branches.attach(branch);
    CHECK(difference(linear(x, ctx).flat(), merged_product<F32>(linear, changes, x)) < merged_tolerance);
  }
}

TEST_CASE("a row of zeros has no direction to be given a length in") {
  const std::vector<float> weights(2 * 3), a(3), b(2), magnitude{5, 7}, bias{1, 2};
  Linear<LoRA<F32>, 3, 2, true> linear;
  linear.weight.weights = {weights.data(), 2, 3};
  linear.bias.weights = {bias.data(), 2, 1};
  Context ctx(1);
  AdapterState state;
  LowRankBranch branch{.change = {.a = {a.data(), 1, 3}, .b = {b.data(), 2, 1}, .magnitude = magnitude.data()}, .adapter = &state};
  branch.squares = row_squares(ctx, linear.weight.weights, branch.change);
  linear.branches.attach(branch);
  CHECK(same(linear(random_rows<Rows, 3>(1, seed), ctx).flat(), bias));
}

TEST_CASE("some rows of a matrix are merged as all of them") {
  CAPTURE(seed);
  Changes changes;
  changes.add(Kind::magnitudes, out, in, 4, 0.5);
  changes.add(Kind::biased, out, in, 2, 0.5);
  std::vector<float> all(in * out);
  fill_random(all, seed);
  std::vector<float> some(all.begin() + 7 * in, all.begin() + 12 * in), all_biases(out), some_biases(5);
  merge(changes.active(), 0, {all.data(), out, in, in}, all_biases);
  merge(changes.active(), 7, {some.data(), 5, in, in}, some_biases);
  CHECK(same(some, {all.data() + 7 * in, 5 * in}));
  CHECK(same(some_biases, {all_biases.data() + 7, 5}));
}

TEST_CASE("a table of vectors: a row of the changed table") {
  CAPTURE(seed);
  constexpr int count = 11, width = 6;
  const auto random = random_weights<Embedding<count, width, LoRA<StoredFloat>>>(seed);
  auto& table = *random.model;
  const std::vector<std::int32_t> ids{3, 0, 10, 3};
  Context ctx(2);
  const auto plain = table.rows<Tokens>(ids, ctx);
  Changes changes;
  changes.add(Kind::plain, count, width, 3, 0.5);
  changes.add(Kind::plain, count, width, 1, 2);
  changes.attach(table);

  std::vector<float> merged(count * width);
  table.weight.weights.decode(0, merged);
  merge(changes.active(), 0, {merged.data(), count, width, width});
  const auto rows = table.rows<Tokens>(ids, ctx);
  for (std::size_t r = 0; r < ids.size(); ++r) {
    CHECK(same(rows[r], {merged.data() + static_cast<std::size_t>(ids[r]) * width, width}));
  }
  changes.state(0).on = changes.state(1).on = false;
  CHECK(same(table.rows<Tokens>(ids, ctx).flat(), plain.flat()));
}

TEST_CASE("decorated layers print and list as the plain ones") {
  CHECK(Linear<LoRA<Stored>, 3, 2, true>::repr(Linear<LoRA<Stored>, 3, 2, true>{}) ==
        "Linear4bit(in_features=3, out_features=2, bias=True)");
  CHECK(Embedding<4, 3, LoRA<StoredFloat>>::repr(Embedding<4, 3, LoRA<StoredFloat>>{.padding_index = 2}) ==
        "Embedding(4, 3, padding_idx=2)");
  static_assert(count_parameters<Linear<LoRA<Stored>, 3, 2, true>>().elements == 8);
  static_assert(count_parameters<Embedding<4, 3, LoRA<StoredFloat>>>().tensors == 1);
}
