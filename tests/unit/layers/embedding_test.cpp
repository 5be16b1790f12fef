// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <array>

#include <mllama/layers/embedding.hpp>
#include <mllama/models/mllama/random.hpp>

#include "random_rows.hpp"

using namespace mllama;
using namespace mllama_test;

TYPE_TO_STRING(F32);
TYPE_TO_STRING(BF16);
TYPE_TO_STRING(F16);

TEST_CASE_TEMPLATE("rows are those of the table, in the order of the ids", F, F32, BF16, F16) {
  constexpr std::uint32_t seed = 5;
  constexpr int width = 11;
  const auto random = random_weights<Embedding<9, width, F>>(seed);
  Context ctx(1);
  const std::array<std::int32_t, 4> ids{8, 0, 3, 3};
  const auto x = random.model->template rows<Tokens>(ids, ctx);
  std::array<float, width> row{};
  for (std::size_t r = 0; r < ids.size(); ++r) {
    random.model->weight.weights.decode(static_cast<std::size_t>(ids[r]) * width, row);
    CHECK(same(x[r], row));
  }
  SUBCASE("a scaled part of a row is added") {
    std::array<float, 3> sum{1, 2, 3};
    random.model->add_to(sum, 3, 5, 0.5F, ctx);
    for (std::size_t i = 0; i < 3; ++i) CHECK(sum[i] == doctest::Approx(double(i + 1) + 0.5 * double{row[5 + i]}));
  }
}

TEST_CASE("the padding index is printed if there is one") {
  using Table = Embedding<9, 4>;
  CHECK(Table::repr(Table{}) == "Embedding(9, 4)");
  CHECK(Table::repr(Table{.padding_index = 0}) == "Embedding(9, 4, padding_idx=0)");
}
