// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <array>
#include <string>
#include <vector>

#include <mllama/generate/adapter_merge.hpp>

#include "adapter_folder.hpp"

using namespace mllama;
using namespace mllama_test;

namespace {

constexpr std::uint32_t seed = 101;
constexpr std::array<std::size_t, 2> shape{40, 24};
constexpr std::string_view canonical = "layers.2.mlp.up_proj.weight";
const std::string up_proj = "language_model.model.layers.2.mlp.up_proj";

struct Fixture {
  ThreadPool threads{2};
  AdapterMerge adapters;
  std::vector<float> numbers = std::vector<float>(40 * 24);
  Weights<Stored> weights;

  Fixture() {
    fill_random(numbers, seed);
    weights.stored = Weights<F32>{numbers.data(), 40, 24};
  }
  MergedParameter merged() { return adapters.of(canonical, shape, weights, threads); }
  std::string failure() {
    return message<config_error>([&] { static_cast<void>(merged()); });
  }
};

}  // namespace

TEST_CASE_FIXTURE(Fixture, "changes of all adapters, in their order and with their scales") {
  CAPTURE(seed);
  CHECK(adapters.empty());
  AdapterFolder one(seed), two(seed + 1);
  one.add_change(up_proj, 40, 24);
  two.add_change(up_proj, 40, 24);
  adapters.add(one.write(), 0.5);
  adapters.add(two.write());
  CHECK_FALSE(adapters.empty());
  const auto other = adapters.of("layers.1.mlp.up_proj.weight", shape, weights, threads);
  CHECK(other.changes.empty());
  CHECK(other.replacement == nullptr);
  CHECK_THROWS_AS(adapters.check_all_used(), shape_error);

  const auto [replacement, changes] = merged();
  CHECK(replacement == nullptr);
  REQUIRE(changes.size() == 2);
  CHECK(changes[0].factor == 0.5);
  CHECK(same({changes[0].change.a.data, 72}, one.tensors[0].values));
  CHECK(changes[1].factor == 1);
  CHECK(same({changes[1].change.a.data, 72}, two.tensors[0].values));
  CHECK_NOTHROW(adapters.check_all_used());
}

TEST_CASE_FIXTURE(Fixture, "an embedding's change") {
  CAPTURE(seed);
  AdapterFolder folder(seed);
  folder.add("model.language_model.embed_tokens.lora_embedding_A", {3, 40});
  folder.add("model.language_model.embed_tokens.lora_embedding_B", {24, 3});
  adapters.add(folder.write());
  CHECK(adapters.of("embed_tokens.weight", shape, weights, threads).changes.size() == 1);
}

TEST_CASE_FIXTURE(Fixture, "one adapter replaces a parameter, and none changes it then") {
  CAPTURE(seed);
  AdapterFolder replacing(seed, R"("modules_to_save": ["up_proj"])"), changing(seed);
  const SavedTensor& tensor = replacing.add(up_proj + ".weight", {40, 24});
  changing.add_change(up_proj, 40, 24);
  const std::string end = concat(": ", canonical, ": ");
  SUBCASE("alone") {
    adapters.add(replacing.write());
    const auto [replacement, changes] = merged();
    REQUIRE(replacement != nullptr);
    CHECK(replacement->name == tensor.name);
    CHECK(changes.empty());
  }
  SUBCASE("with a scale") {
    adapters.add(replacing.write(), 2);
    CHECK(failure() ==
          concat(replacing / "adapter_model.safetensors", end, "what replaces it has no scale but 1, and is to have 2"));
  }
  SUBCASE("twice") {
    adapters.add(replacing.write());
    adapters.add(replacing.path());
    CHECK(failure() == concat(replacing / "adapter_model.safetensors", end, replacing.path(), " replaces it"));
  }
  SUBCASE("and then a change") {
    adapters.add(replacing.write());
    adapters.add(changing.write());
    CHECK(failure() == concat(changing / "adapter_model.safetensors", end, replacing.path(), " replaces it"));
  }
  SUBCASE("after a change") {
    adapters.add(changing.write());
    adapters.add(replacing.write());
    CHECK(failure() == concat(replacing / "adapter_model.safetensors", end, changing.path(), " changes it"));
  }
  SUBCASE("and changes it itself") {
    replacing.add_change(up_proj, 40, 24);
    adapters.add(replacing.write());
    CHECK(failure() == concat(replacing / "adapter_model.safetensors", end, "the adapter both replaces and changes it"));
  }
}

TEST_CASE_FIXTURE(Fixture, "copies of the base must be copies; of what is quantised there are none") {
  CAPTURE(seed);
  AdapterFolder folder(seed);
  folder.add_change(up_proj, 40, 24);
  SavedTensor& copied = folder.add(up_proj + ".base_layer.weight", {40, 24});
  copied.values = numbers;
  SUBCASE("the same") {
    adapters.add(folder.write());
    CHECK(merged().changes.size() == 1);
    CHECK_NOTHROW(adapters.check_all_used());
  }
  SUBCASE("others") {
    copied.values[959] += 1;
    adapters.add(folder.write());
    CHECK(failure() ==
          concat(folder / "adapter_model.safetensors: ", canonical, ": the adapter's copy of the base has other numbers"));
    const std::vector<std::uint8_t> codes(480);
    const std::vector<float> scales(15);
    weights.stored = Weights<NF4>{.codes = codes.data(), .rows = 40, .columns = 24, .absmax = scales.data()};
    CHECK(failure() == "no exception");
  }
}

TEST_CASE_FIXTURE(Fixture, "a scale is a finite number") {
  CHECK_THROWS_AS(adapters.add("nowhere", HUGE_VAL), input_error);
  CHECK_THROWS_AS(adapters.add("nowhere"), file_error);
}
