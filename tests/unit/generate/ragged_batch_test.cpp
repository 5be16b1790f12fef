// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include <mllama/generate/ragged_batch.hpp>

#include "allocations.hpp"
#include "padded_prompt.hpp"

using namespace mllama;
using namespace mllama_test;

namespace {

constexpr std::uint32_t seed = 61;

/// Conversations of different lengths: a text alone, one token, two about the same picture, and one about two pictures.
const std::vector<Ids> prompts{{4, 5, 6, 7, 8, 9, 10}, {3}, {image, 5, 6}, {4, image, 8, 9, 5}, {image, image, 7, 4}};
const std::vector<std::vector<std::size_t>> pictures_of{{}, {}, {0}, {0}, {1, 0}};

class Fixture {
 public:
  Fixture() : random_(random_weights<Tiny>(seed)) {
    for (RandomPicture<>* source : {&first_, &second_}) pictures_.push_back(encoded(model(), *source, Tiny::numerics, ctx));
  }
  [[nodiscard]] const Tiny& model() const { return *random_.model; }
  [[nodiscard]] std::vector<TinyPicture> pictures(std::size_t conversation) const {
    std::vector<TinyPicture> all;
    for (const std::size_t i : pictures_of[conversation]) all.push_back(pictures_[i]);
    return all;
  }

  Context<> ctx{1};

 private:
  RandomModel<Tiny> random_;
  RandomPicture<> first_{seed}, second_{seed + 1, 1};
  std::vector<TinyPicture> pictures_;
};

std::vector<float> copy_of(std::span<const float> numbers) { return {numbers.begin(), numbers.end()}; }

}  // namespace

TEST_CASE_FIXTURE(Fixture, "conversations in a batch have the bits of sessions: prompts, single tokens, and both together") {
  CAPTURE(seed);
  for (const unsigned threads : {1U, 3U}) {
    CAPTURE(threads);
    Context<> own(threads);
    RaggedBatch batch(model(), own);
    std::vector<Session<Tiny, Context<>>> alone;
    // At first two conversations, then more of them while these go on, token by token.
    const std::vector<std::vector<std::size_t>> rounds{{0, 2}, {0, 2, 1, 3}, {4, 0}, {0, 1, 2, 3, 4}, {3}};
    std::int32_t next = 3;
    for (const auto& round : rounds) {
      std::vector<std::vector<float>> expected(prompts.size());
      for (const std::size_t i : round) {
        while (batch.size() < prompts.size()) {
          CHECK(batch.add() == alone.size());
          alone.emplace_back(model(), ctx);
        }
        const bool begins = batch.ids(i).empty();
        const Ids ids = begins ? prompts[i] : Ids{next++};
        const auto seen = begins ? pictures(i) : std::vector<TinyPicture>{};
        batch.append(i, ids, seen);
        expected[i] = copy_of(alone[i].append(ids, seen));
      }
      batch.run();
      for (std::size_t i = 0; i < prompts.size(); ++i) {
        CAPTURE(i);
        CHECK(copy_of(batch.logits(i)) == expected[i]);  // empty where nothing was appended
      }
    }
  }
}

TEST_CASE_FIXTURE(Fixture, "generation in a batch gives each conversation the tokens that it has alone, and ends each on its own") {
  CAPTURE(seed);
  const SamplingSettings settings{.do_sample = true, .top_k = 30};
  StopRules stop{{}, 9};
  const auto alone = [&](std::size_t i) {
    Session session(model(), ctx);
    Sampler sampler(settings, seed + i);
    const auto seen = pictures(i);
    return generate(session, std::span<const std::int32_t>(prompts[i]), std::span<const TinyPicture>(seen), sampler, stop,
                    [](std::int32_t) { return true; });
  };
  std::vector<std::vector<std::int32_t>> expected;
  for (std::size_t i = 0; i < prompts.size(); ++i) expected.push_back(alone(i));
  const auto together = [&](auto&& on_token) {
    RaggedBatch batch(model(), ctx);
    std::vector<Sampler> samplers;
    for (std::size_t i = 0; i < prompts.size(); ++i) {
      batch.append(batch.add(), prompts[i], pictures(i));
      samplers.emplace_back(settings, seed + i);
    }
    return generate(batch, std::span(samplers), stop, on_token);
  };
  std::vector<std::vector<std::int32_t>> heard(prompts.size());
  const auto all = together([&](std::size_t conversation, std::int32_t id) {
    heard[conversation].push_back(id);
    return true;
  });
  CHECK(all == expected);
  CHECK(heard == expected);
  SUBCASE("end tokens") {
    stop.eos = {expected[0][2], expected[1][4]};
    for (std::size_t i = 0; i < prompts.size(); ++i) expected[i] = alone(i);
    CHECK(together([](std::size_t, std::int32_t) { return true; }) == expected);
    CHECK(expected[0].size() <= 3);
  }
  SUBCASE("the caller ends one") {
    const auto cut = together([&](std::size_t conversation, std::int32_t) { return conversation != 3; });
    CHECK(cut[3] == std::vector<std::int32_t>{expected[3][0]});
    CHECK(cut[4] == expected[4]);
  }
  SUBCASE("no new tokens were asked for") {
    stop.max_new_tokens = 0;
    CHECK(together([](std::size_t, std::int32_t) { return true; }) == std::vector<std::vector<std::int32_t>>(prompts.size()));
  }
  SUBCASE("too few samplers") {
    RaggedBatch batch(model(), ctx);
    batch.add();
    const Fault fault = refused(
        [&] { static_cast<void>(generate(batch, std::span<Sampler>(), stop, [](std::size_t, std::int32_t) { return true; })); });
    CHECK(fault.field == "samplers");
    CHECK(fault.expected == "1");
  }
}

TEST_CASE_FIXTURE(Fixture, "what does not fit is refused, and the batch is as before") {
  RaggedBatch batch(model(), ctx);
  const Ids ids{4, 5};
  CHECK(refused([&] { batch.append(0, ids); }).expected == "one of the 0 of the batch");
  batch.append(batch.add(), ids);
  CHECK(refused([&] { batch.append(0, Ids{}); }).field == "input_ids");
  CHECK(refused([&] { batch.append(0, Ids{4, -1}); }).found == "-1");
  CHECK(refused([&] { batch.append(0, Ids{image}); }).field == "images");
  CHECK(refused([&] { batch.append(0, ids, pictures(2)); }).field == "images");
  CHECK(refused([&] { static_cast<void>(batch.logits(1)); }).found == "number 1");
  CHECK(std::ranges::equal(batch.ids(0), ids));
  CHECK(batch.logits(0).empty());
  batch.run();
  Session<Tiny, Context<>> session(model(), ctx);
  CHECK(copy_of(batch.logits(0)) == copy_of(session.append(ids)));
  SUBCASE("a run without anything to compute") {
    batch.run();
    CHECK(batch.logits(0).empty());
  }
  SUBCASE("a conversation is cut, and goes on") {
    batch.truncate(0, 1);
    batch.append(0, Ids{9});
    batch.run();
    session.truncate(1);
    CHECK(copy_of(batch.logits(0)) == copy_of(session.append(Ids{9})));
  }
}

TEST_CASE_FIXTURE(Fixture, "a step of a batch allocates nothing") {
  RaggedBatch batch(model(), ctx);
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    batch.append(batch.add(), prompts[i], pictures(i));
    batch.reserve(i, 64);
  }
  const auto step = [&] {
    for (std::size_t i = 0; i < prompts.size(); ++i) batch.append(i, Ids{5});
    batch.run();
  };
  const Ids five{5};
  batch.run();
  for (int warm_up = 0; warm_up < 2; ++warm_up) step();
  const std::size_t before = allocations();
  for (int n = 0; n < 8; ++n) {
    for (std::size_t i = 0; i < prompts.size(); ++i) batch.append(i, five);
    batch.run();
  }
  CHECK(allocations() - before == 0);
}
