// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include <mllama/generate/pretrained.hpp>
#include <mllama/generate/session.hpp>

#include "tiny_folder.hpp"

using namespace mllama;
using namespace mllama_test;

namespace {

constexpr std::uint32_t seed = 67;

std::vector<FileTensor> tensors_of(const std::vector<SavedTensor>& saved) {
  std::vector<FileTensor> tensors;
  for (const SavedTensor& tensor : saved) {
    tensors.push_back({tensor.name, Dtype::F32, tensor.shape, std::as_bytes(std::span(tensor.values))});
  }
  return tensors;
}

std::vector<float> logits_of(const Tiny& model) {
  Context<> ctx(1);
  Session<Tiny, Context<>> session(model, ctx);
  const auto found = session.append(std::array<std::int32_t, 3>{4, 5, 6});
  return {found.begin(), found.end()};
}

}  // namespace

TEST_CASE("a model of the caller's weights reads them where they are, and no file") {
  const auto random = random_weights<Tiny>(seed);
  const auto saved = saved_tensors(*random.model);
  Checkpoint weights(ModelFiles::in_memory(tensors_of(saved)));
  Tiny model;
  bind_weights(model, weights);
  CHECK(weights.owned_bytes() == 0);
  CHECK(weights.mapped_bytes() == 4 * count_parameters<Tiny>().elements);
  CHECK(logits_of(model) == logits_of(*random.model));
  std::size_t in_place = 0;
  for_each_parameter(model, [&](const std::string& key, const auto& parameter) {
    for (const SavedTensor& tensor : saved) {
      if constexpr (requires { parameter.weights.data; }) {
        if (tensor.name == key && static_cast<const void*>(parameter.weights.data) == tensor.values.data()) ++in_place;
      }
    }
  });
  CHECK(in_place > 60);  // all but those whose format a file decides
}

TEST_CASE("what has to be widened does not change the caller's memory, however large it is") {
  // Pages of a mapped file may be let go after they have been read; the caller's may not.
  std::vector<std::uint16_t> halves(100'000);
  for (std::size_t i = 0; i < halves.size(); ++i) halves[i] = BF16::encode(static_cast<float>(i % 251) + 1);
  const std::vector<std::uint16_t> before = halves;
  Checkpoint weights(ModelFiles::in_memory({{"a", Dtype::BF16, {100, 1000}, std::as_bytes(std::span(halves))}}));
  Weights<F32> wide;
  weights.bind(wide, "a", std::array<std::size_t, 2>{100, 1000});
  CHECK(weights.owned_bytes() == 400'000);
  CHECK(wide.data[777] == BF16::decode(before[777]));
  CHECK(halves == before);
}

TEST_CASE("tensors that cannot be right are refused by name") {
  const std::vector<float> values(6);
  const auto bytes = std::as_bytes(std::span(values));
  CHECK(message<format_error>([&] {
          static_cast<void>(ModelFiles::in_memory({{"a", Dtype::F32, {7}, bytes}}));
        }) == "memory: a: expected 28 bytes for F32 [7], found 24 bytes");
  CHECK(
      message<format_error>([&] {
        static_cast<void>(ModelFiles::in_memory({{"a", Dtype::F32, {6}, bytes}, {"model.a", Dtype::F32, {2, 3}, bytes}}, "given"));
      }) == "given: model.a: names the same tensor as a of given");
  Checkpoint weights(ModelFiles::in_memory({{"a", Dtype::F32, {6}, bytes}}, "given"));
  Tiny model;
  CHECK(message<shape_error>([&] { bind_weights(model, weights); }).starts_with("given: lm_head.weight: expected the head"));
}
