// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <concepts>
#include <string>

#include <mllama/models/mllama/adapted.hpp>
#include <mllama/models/mllama/describe.hpp>

#include "tiny.hpp"

using namespace mllama;
using namespace mllama_test;

namespace {
struct CrossOnly : TinyText {
  using cross_weights = LoRA<F32>;
};
struct Nameless : Mllama<TinyVision, CrossOnly, profile::transformers_4_56> {};
}  // namespace

TEST_CASE("an adapted model looks like the plain one") {
  CHECK(describe<Adapted<Llama32Vision11B>>() == describe<Llama32Vision11B>());
  CHECK(describe<Adapted<Llama32Vision11B>>(TreeDetail::sizes) == describe<Llama32Vision11B>(TreeDetail::sizes));
  static_assert(count_parameters<Adapted<Llama32Vision90B>>().elements == count_parameters<Llama32Vision90B>().elements);
  static_assert(Adapted<Tiny>::name == Tiny::name);
  static_assert(Adapted<Nameless>::name.empty());
  static_assert(Adapted<Nameless>::numerics == profile::transformers_4_56::numerics);
  static_assert(std::same_as<AdaptedModels<Models<Tiny, Nameless>>, Models<Adapted<Tiny>, Adapted<Nameless>>>);
}

TEST_CASE("a format is decorated once") {
  static_assert(std::same_as<with_lora<with_lora<NF4>>, LoRA<NF4>>);
  static_assert(std::same_as<AdaptedText<CrossOnly>::cross_weights, LoRA<F32>>);
  static_assert(std::same_as<AdaptedText<AdaptedText<TinyText>>::weights, AdaptedText<TinyText>::weights>);
  static_assert(std::same_as<AdaptedText<TinyText>::cross_weights, LoRA<F32>>);
}

TEST_CASE("without adapters the numbers are those of the plain model") {
  constexpr std::uint32_t seed = 41;
  CAPTURE(seed);
  const auto plain = random_weights<Tiny>(seed);
  const auto adapted = random_weights<Adapted<Tiny>>(seed);
  RandomPicture<> picture(seed);
  RandomPicture<AdaptedVision<TinyVision>> same_picture(seed);
  Context ctx(1);
  const auto expected = plain.model->cross_attention_states(picture.tiles(), Tiny::numerics, ctx);
  CHECK(same(adapted.model->cross_attention_states(same_picture.tiles(), Tiny::numerics, ctx).flat(), expected.flat()));
}
