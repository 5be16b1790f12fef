// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <vector>

#include <mllama/generate/batch.hpp>

#include "padded_prompt.hpp"

using namespace mllama;
using namespace mllama_test;

TEST_CASE("rows of a batch go on as if they were alone") {
  constexpr std::uint32_t seed = 73;
  CAPTURE(seed);
  const auto random = random_weights<Tiny>(seed);
  const Tiny& model = *random.model;
  Context ctx(1);
  RandomPicture<> a(seed), b(seed + 1, 1);
  const std::vector<Ids> prompts{{4, image, 5, 6}, {image, 8}};
  const SamplingSettings settings{.do_sample = true, .top_k = 30};
  StopRules stop{{}, 7};
  const auto alone = [&](std::size_t row) {
    Session session(model, ctx);
    Sampler sampler(settings, seed + row);
    const std::vector<TinyPicture> pictures{encoded(model, row == 0 ? a : b, Tiny::numerics, ctx)};
    return generate(session, std::span<const std::int32_t>(prompts[row]), std::span(pictures), sampler, stop,
                    [](std::int32_t) { return true; });
  };
  const auto together = [&](bool left) {
    PaddedRun<Tiny> run(model, Tiny::numerics);
    return generate(run, PaddedPrompt(prompts, {&a, &b}, left).inputs(), settings, seed, stop, ctx);
  };
  const std::vector<std::vector<std::int32_t>> expected{alone(0), alone(1)};
  CHECK(expected[0] != expected[1]);
  for (const bool left : {false, true}) CHECK(together(left) == expected);

  SUBCASE("until each has its end token") {
    stop.eos = {expected[0][2], expected[1][4]};
    const auto rows = together(true);
    CHECK(rows[0] == alone(0));
    CHECK(rows[1] == alone(1));
    CHECK(rows[0].size() <= 3);
  }
  SUBCASE("no new tokens were asked for") {
    stop.max_new_tokens = 0;
    CHECK(together(false) == std::vector<std::vector<std::int32_t>>(2));
  }
  SUBCASE("a row of padding has nothing to go on from") {
    PaddedPrompt prompt({{4, 5}, {6, 7}});
    prompt.attention_mask[2] = 0;  // one by one: GCC 12 loses the assignment of a list with -O2 and AVX-512
    prompt.attention_mask[3] = 0;
    PaddedRun<Tiny> run(model, Tiny::numerics);
    const Fault fault = refused([&] { static_cast<void>(generate(run, prompt.inputs(), settings, seed, stop, ctx)); });
    CHECK(fault.field == "attention_mask");
    CHECK(fault.found == "none in row 1");
  }
}
