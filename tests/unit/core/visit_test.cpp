// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <array>
#include <string>
#include <string_view>
#include <vector>

#include <mllama/core/visit.hpp>

namespace {

using namespace mllama;

struct Leaf {
  Parameter<F32, 2, 3> weight;
  static constexpr void visit(auto& self, auto&& member) { member("weight", self.weight); }
};
struct Silent {
  static constexpr void visit(auto&, auto&&) {}
};
struct Tree {
  Vector<4> gate;
  Silent activation;
  std::array<Leaf, 12> layers;
  static constexpr void visit(auto& self, auto&& member) {
    member("layers", self.layers);
    member("activation", self.activation);
    member("gate", self.gate);
  }
};

static_assert(Module<Tree> && Module<Silent> && !Module<int>);
static_assert(count_parameters<Tree>().tensors == 13 && count_parameters<Tree>().elements == 12 * 6 + 4);
static_assert(std::string_view(IndexKey(0)) == "0" && std::string_view(IndexKey(1234567)) == "1234567");

}  // namespace

TEST_CASE("every parameter is visited once, under its key and in the order of the listing") {
  Tree tree{};
  std::vector<std::string> keys;
  for_each_parameter(tree, [&](const std::string& key, auto& parameter) {
    keys.push_back(key);
    parameter.weights.rows = parameter.shape[0];
  });
  REQUIRE(keys.size() == 13);
  CHECK(keys.front() == "layers.0.weight");
  CHECK(keys[11] == "layers.11.weight");
  CHECK(keys.back() == "gate");
  CHECK(tree.layers[7].weight.weights.rows == 2);
}

TEST_CASE("a constant model is visited as well") {
  const Tree tree{};
  int count = 0;
  for_each_parameter(
      tree, [&](const std::string&, const auto&) { ++count; }, "model");
  CHECK(count == 13);
}
