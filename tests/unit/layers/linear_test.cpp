// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <vector>

#include <mllama/layers/linear.hpp>
#include <mllama/models/mllama/random.hpp>

#include "random_rows.hpp"

using namespace mllama;
using namespace mllama_test;

namespace {

constexpr int in = 37, out = 21;  // no multiple of anything; blocks of 64 span rows
constexpr std::uint32_t seed = 7;

/// x · Wᵀ + b in double.
template <class Layer>
std::vector<float> product(const Layer& linear, const Tensor<float, Rows, Dim<in>>& x) {
  std::vector<float> weights(in * out), y;
  linear.weight.weights.decode(0, weights);
  for (std::size_t r = 0; r < x.rows(); ++r) {
    for (std::size_t o = 0; o < out; ++o) {
      double sum = double{linear.bias.data()[o]};
      for (std::size_t i = 0; i < in; ++i) sum += double{x[r][i]} * double{weights[o * in + i]};
      y.push_back(static_cast<float>(sum));
    }
  }
  return y;
}

}  // namespace

TYPE_TO_STRING(F32);
TYPE_TO_STRING(F16);
TYPE_TO_STRING(BF16);
TYPE_TO_STRING(NF4);
TYPE_TO_STRING(FP4);
TYPE_TO_STRING(Int8);
TYPE_TO_STRING(Stored);

TEST_CASE_TEMPLATE("the product is that of the decoded weights", F, F32, F16, BF16, NF4, FP4, Int8) {
  CAPTURE(seed);
  const auto random = random_weights<Linear<F, in, out, true>>(seed);
  const auto x = random_rows<Rows, in>(5, seed);
  Context ctx(1);
  const auto y = (*random.model)(x, ctx);
  CHECK(difference(y.flat(), product(*random.model, x)) < reordered);

  SUBCASE("in memory of the caller's") {
    auto into = random_rows<Rows, out>(5, seed + 2);
    random.model->into(x, into.view(), ctx);
    CHECK(same(into.flat(), y.flat()));
  }
  SUBCASE("the file's choice of a format is the format itself") {
    Linear<Stored, in, out, true> any;
    any.weight.weights.stored = random.model->weight.weights;
    any.bias = random.model->bias;
    CHECK(same(any(x, ctx).flat(), y.flat()));
  }
  SUBCASE("added to a stream: scaled by the gate, and only in the rows of the mask") {
    const std::vector<std::uint8_t> mask{1, 0, 1, 1, 0};
    const auto before = random_rows<Rows, out>(5, seed + 1);
    auto stream = copy(before);
    random.model->add(x, {stream, 0.25F, mask}, ctx);
    auto expected = copy(before);
    for (std::size_t r = 0; r < 5; ++r) {
      for (std::size_t o = 0; o < out; ++o) expected[r][o] += mask[r] * 0.25F * y[r][o];
    }
    CHECK(difference(stream.flat(), expected.flat()) < reordered);
    CHECK(same(stream[1], before[1]));
    CHECK(same(stream[4], before[4]));
  }
  SUBCASE("a closed gate adds nothing") {
    const auto before = random_rows<Rows, out>(5, seed + 1);
    auto stream = copy(before);
    random.model->add(x, {stream, 0}, ctx);
    CHECK(same(stream.flat(), before.flat()));
  }
  SUBCASE("without rows nothing happens") { CHECK((*random.model)(random_rows<Rows, in>(0, seed), ctx).size() == 0); }
}

namespace {

/// Projections of the same rows: two with biases and one without.
template <class F, class G = F>
struct Projections {
  static constexpr int width = 128;
  Linear<F, width, 150, true> q{};
  Linear<F, width, 37> k{};
  Linear<G, width, 37, true> v{};

  static constexpr void visit(auto& self, auto&& member) {
    member("q", self.q);
    member("k", self.k);
    member("v", self.v);
  }
};

template <class Layers, class Compute>
void check_projections() {
  const auto random = random_weights<Layers>(seed);
  const auto& [q, k, v] = *random.model;
  for (const std::size_t rows : std::initializer_list<std::size_t>{0, 1, 2, 9, 64}) {
    CAPTURE(rows);
    const auto x = random_rows<Rows, Layers::width>(rows, seed);
    Context<cpu<arch::native, Compute>> ctx(3);
    const auto [of_q, of_k, of_v] = project(x, ctx, q, k, v);
    CHECK(same(of_q.flat(), q(x, ctx).flat()));
    CHECK(same(of_k.flat(), k(x, ctx).flat()));
    CHECK(same(of_v.flat(), v(x, ctx).flat()));
    auto one = random_rows<Rows, 37>(rows, seed), other = random_rows<Rows, 37>(rows, seed + 1);
    project_into(x, ctx, Projection{v, one.view()}, Projection{k, other.view()});
    CHECK(same(one.flat(), of_v.flat()));
    CHECK(same(other.flat(), of_k.flat()));
  }
}

}  // namespace

TEST_CASE_TEMPLATE("several linears of the same rows together are those one by one", F, F32, BF16, NF4, Int8, Stored) {
  CAPTURE(seed);
  check_projections<Projections<F>, F32>();
  check_projections<Projections<F>, Int8>();
}

TEST_CASE("linears of several formats together") { check_projections<Projections<NF4, BF16>, Int16>(); }

TEST_CASE("a linear prints as PyTorch's class of its format") {
  using Any = Linear<Stored, 3, 2>;
  Any any;
  CHECK(Any::repr(any) == "Linear4bit(in_features=3, out_features=2, bias=False)");
  const std::vector<std::uint16_t> numbers(6);
  any.weight.weights.stored = Weights<BF16>{numbers.data(), 2, 3};
  CHECK(Any::repr(any) == "Linear(in_features=3, out_features=2, bias=False)");
  CHECK(Linear<F32, 3, 2, true>::repr(Linear<F32, 3, 2, true>{}) == "Linear(in_features=3, out_features=2, bias=True)");
}
