// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <string>

#include "tiny.hpp"

using namespace mllama;
using namespace mllama_test;

namespace {

struct WiderText : TinyText {
  static constexpr int inner = 56;
};
struct Wider : Mllama<TinyVision, WiderText> {};

template <int N, int K, WeightFormat F>
std::vector<float> decoded(const Parameter<F, N, K>& parameter) {
  std::vector<float> values(N * K);
  parameter.weights.decode(0, values);
  return values;
}

}  // namespace

TEST_CASE("every parameter has numbers, the same ones for the same seed") {
  const auto a = random_weights<Tiny>(1), b = random_weights<Tiny>(1), c = random_weights<Tiny>(2);
  std::size_t tensors = 0;
  for_each_parameter(*a.model, [&](const std::string& key, const auto& parameter) {
    CAPTURE(key);
    CHECK(parameter.weights.loaded());
    ++tensors;
  });
  CHECK(tensors == count_parameters<Tiny>().tensors);
  const auto projector = [](const auto& random) { return decoded(random.model->multi_modal_projector.weight); };
  CHECK(projector(a) == projector(b));
  CHECK(projector(a) != projector(c));
}

TEST_CASE("a parameter's numbers depend on its name, not on what else the model has") {
  const auto tiny = random_weights<Tiny>(1);
  const auto wider = random_weights<Wider>(1);
  const auto& a = tiny.model->language_model.model.layers.self[1].self_attn;
  const auto& b = wider.model->language_model.model.layers.self[1].self_attn;
  CHECK(decoded(a.q_proj.weight) == decoded(b.q_proj.weight));
  CHECK(decoded(a.q_proj.weight) != decoded(a.o_proj.weight));
}

TYPE_TO_STRING(F32);
TYPE_TO_STRING(F16);
TYPE_TO_STRING(BF16);
TYPE_TO_STRING(NF4);

TEST_CASE_TEMPLATE("matrices keep the size of what they multiply", F, F32, F16, BF16, NF4) {
  constexpr int in = 200, out = 300;
  const auto random = random_weights<Linear<F, in, out>>(3);
  Context ctx(1);
  const auto x = random_rows<Rows, in>(20, 3);
  const auto y = (*random.model)(x, ctx);
  const auto mean_square = [](std::span<const float> values) {
    double sum = 0;
    for (const float value : values) sum += double{value} * double{value};
    return sum / static_cast<double>(values.size());
  };
  const double ratio = mean_square(y.flat()) / mean_square(x.flat());
  CHECK(ratio > 0.5);
  CHECK(ratio < 2);
}
