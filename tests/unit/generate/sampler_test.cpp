// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include <mllama/generate/sampler.hpp>

using namespace mllama;

namespace {

using Scores = std::vector<float>;
constexpr float infinity = std::numeric_limits<float>::infinity();

/// Logits of these probabilities.
Scores logits_of(std::initializer_list<double> probabilities) {
  Scores logits;
  for (const double p : probabilities) logits.push_back(static_cast<float>(std::log(p)));
  return logits;
}

/// The ids that may be drawn, ascending.
std::vector<int> kept(const SamplingSettings& settings, const Scores& logits, const std::vector<std::int32_t>& history = {}) {
  Sampler sampler(settings);
  std::vector<int> ids;
  for (const Sampler::Candidate& c : sampler.candidates(logits, history)) ids.push_back(c.id);
  std::ranges::sort(ids);
  return ids;
}

int greedy(const Scores& logits, const std::vector<std::int32_t>& history = {}, double penalty = 1) {
  return Sampler({.repetition_penalty = penalty})(logits, history);
}

}  // namespace

TEST_CASE("greedy: the largest, the first of equals") {
  CHECK(greedy({1, 3, 2}) == 1);
  CHECK(greedy({1, 3, 3}) == 1);
  CHECK(greedy({-5}) == 0);
  CHECK(greedy({-infinity, -infinity, -7}) == 2);
  CHECK(greedy({std::nanf(""), 1, 2}) == 2);  // what is not a number is never chosen
}

TEST_CASE("repetition penalty: from the original score, once for each id that has occurred") {
  CHECK(greedy({4, 3}, {0}, 2) == 1);                  // 2, 3
  CHECK(greedy({4, 1.5}, {0, 0, 0}, 2) == 0);          // 2, 1.5: not 0.5
  CHECK(greedy({-1, -1.5}, {0}, 2) == 1);              // -2, -1.5
  CHECK(greedy({4, 3}, {2, 9, -1, 1 << 30}, 2) == 0);  // the image token and ids that have no logit are passed over
  CHECK(greedy({4, 3}, {0}, 0.5) == 0);                // 8, 3
  Sampler sampler({.repetition_penalty = 2});
  const auto scores = sampler.candidates(Scores{4, -3, 1}, std::vector<std::int32_t>{0, 1});
  CHECK(scores[0].score == -6);
  CHECK(scores[2].score == 2);
}

TEST_CASE("temperature divides") {
  Sampler sampler({.do_sample = true, .temperature = 0.5});
  const auto scores = sampler.candidates(Scores{1, -2});
  CHECK(scores[0].score == -4);
  CHECK(scores[1].score == 2);
}

TEST_CASE("top-k keeps the k largest, and what equals the last of them") {
  const Scores logits{1, 5, 3, 3, 2};
  CHECK(kept({.top_k = 1}, logits) == std::vector{1});
  CHECK(kept({.top_k = 2}, logits) == std::vector{1, 2, 3});
  CHECK(kept({.top_k = 3}, logits) == std::vector{1, 2, 3});
  CHECK(kept({.top_k = 4}, logits) == std::vector{1, 2, 3, 4});
  for (const int all : {0, 5, 50}) CHECK(kept({.top_k = all}, logits).size() == 5);
}

TEST_CASE("top-p drops the least probable whose sum is at most 1 - p; the largest stays") {
  const Scores logits = logits_of({0.05, 0.5, 0.15, 0.3});
  CHECK(kept({.top_p = 0.9}, logits) == std::vector{1, 2, 3});
  CHECK(kept({.top_p = 0.79}, logits) == std::vector{1, 3});
  CHECK(kept({.top_p = 0.81}, logits) == std::vector{1, 2, 3});
  CHECK(kept({.top_p = 0.4}, logits) == std::vector{1});
  CHECK(kept({.top_p = 0}, logits) == std::vector{1});
  CHECK(kept({.top_p = 1}, logits).size() == 4);
}

TEST_CASE("min-p keeps a share of the largest probability") {
  const Scores logits = logits_of({0.05, 0.5, 0.15, 0.3});
  CHECK(kept({.min_p = 0.29}, logits) == std::vector{1, 2, 3});
  CHECK(kept({.min_p = 0.31}, logits) == std::vector{1, 3});
  CHECK(kept({.min_p = 1}, logits) == std::vector{1});
}

TEST_CASE("the order is penalty, temperature, top-k, top-p, min-p") {
  const Scores logits = logits_of({0.05, 0.5, 0.15, 0.3});
  // Of two candidates, 0.375 and 0.625: with top-p before top-k, both would stay.
  CHECK(kept({.top_k = 2, .top_p = 0.6}, logits) == std::vector{1});
  CHECK(kept({.top_p = 0.6}, logits) == std::vector{1, 3});
  // Probabilities of temperature 1/2 are 0.007, 0.685, 0.062, 0.247.
  CHECK(kept({.temperature = 0.5, .top_p = 0.6}, logits) == std::vector{1});
  CHECK(kept({.temperature = 0.5, .min_p = 0.31}, logits) == std::vector{1, 3});
  CHECK(kept({.temperature = 0.5, .min_p = 0.4}, logits) == std::vector{1});
  // log p is negative: a penalised score falls.
  CHECK(kept({.top_k = 1, .repetition_penalty = 3}, logits, {1}) == std::vector{3});
}

TEST_CASE("draws are seeded") {
  const Scores logits = logits_of({0.25, 0.25, 0.25, 0.25});
  const auto draws = [&](std::uint64_t seed) {
    Sampler sampler({.do_sample = true}, seed);
    std::vector<int> ids;
    for (int i = 0; i < 40; ++i) ids.push_back(sampler(logits));
    return ids;
  };
  CHECK(draws(1) == draws(1));
  CHECK(draws(1) != draws(2));
}

TEST_CASE("draws have the probabilities") {
  const std::vector<double> probabilities{0.4, 0.3, 0.15, 0.1, 0.04, 0.01};
  Scores logits;
  for (const double p : probabilities) logits.push_back(static_cast<float>(std::log(p)));
  constexpr std::uint64_t seed = 12;
  constexpr int draws = 20000;
  CAPTURE(seed);
  Sampler sampler({.do_sample = true}, seed);
  std::vector<int> counts(probabilities.size());
  for (int i = 0; i < draws; ++i) ++counts[static_cast<std::size_t>(sampler(logits))];
  double chi_square = 0;
  for (std::size_t i = 0; i < counts.size(); ++i) {
    const double expected = draws * probabilities[i];
    chi_square += (counts[i] - expected) * (counts[i] - expected) / expected;
  }
  CHECK(chi_square < 20.5);  // 99.9 % of samples are below, for 5 degrees of freedom
}

TEST_CASE("what cannot be drawn is not drawn, and a vocabulary of nothing but that does no harm") {
  Sampler sampler({.do_sample = true, .top_k = 3, .top_p = 0.9, .min_p = 0.1});
  for (int i = 0; i < 20; ++i) CHECK(sampler(Scores{-infinity, 2, std::nanf(""), -infinity}) == 1);
  CHECK(sampler(Scores{infinity, 2, 1}) == 0);
  for (const float value : {-infinity, infinity, std::nanf("")}) {
    const int id = sampler(Scores(100, value));
    CHECK(id >= 0);
    CHECK(id < 100);
  }
}

TEST_CASE("how many of the largest logits decide") {
  constexpr std::size_t all = std::numeric_limits<std::size_t>::max();
  const auto needed = [](const SamplingSettings& settings) { return Sampler(settings).candidates_needed(); };
  CHECK(needed({}) == 1);
  CHECK(needed({.temperature = 1e30, .top_k = 9}) == 1);  // they are for sampling
  CHECK(needed({.repetition_penalty = 1.1}) == all);
  CHECK(needed({.do_sample = true}) == all);
  CHECK(needed({.do_sample = true, .top_p = 0.5, .min_p = 0.1}) == all);
  CHECK(needed({.do_sample = true, .temperature = 0.6, .top_k = 50, .top_p = 0.9}) == 50);
  CHECK(needed({.do_sample = true, .top_k = 50, .repetition_penalty = 0.9}) == all);
  for (const double temperature : {1e-7, 1e7}) CHECK(needed({.do_sample = true, .temperature = temperature, .top_k = 50}) == all);
}

TEST_CASE("logits that do not decide may be minus infinity") {
  constexpr std::uint32_t seed = 99;
  CAPTURE(seed);
  std::minstd_rand random(seed);
  for (int round = 0; round < 200; ++round) {
    CAPTURE(round);
    Scores logits(100);
    for (float& logit : logits) logit = static_cast<float>(static_cast<int>(random() % 64U)) / 8 - 4;  // ties are usual
    if (round % 3 == 0) logits[random() % 100U] = std::nextafter(4.0F, 0.0F);
    const SamplingSettings settings{.do_sample = round % 4 != 0,
                                    .temperature = 0.1 + static_cast<double>(random() % 100U) / 30,
                                    .top_k = static_cast<int>(1 + random() % 20U),
                                    .top_p = round % 2 == 0 ? 1 : 0.8,
                                    .min_p = round % 5 == 0 ? 0.05 : 0};
    Sampler one(settings, seed), other(settings, seed);
    Scores sorted = logits, few = logits;
    std::ranges::sort(sorted, std::greater<>{});
    const float least = sorted[one.candidates_needed() - 1];
    for (float& logit : few) {
      if (logit < least - std::abs(least) * 0x1p-20F) logit = -infinity;
    }
    for (int i = 0; i < 5; ++i) CHECK(one(logits) == other(few));
  }
}

TEST_CASE("settings out of their range are refused by name") {
  const auto refused = [](SamplingSettings settings) -> std::string {
    try {
      static_cast<void>(Sampler(settings));
    } catch (const input_error& error) {
      return error.fault().field;
    }
    return "none";
  };
  const double nan = std::nan("");
  for (const double value : {0.0, -1.0, nan, static_cast<double>(infinity), 1e-300, 1e300}) {
    CHECK(refused({.temperature = value}) == "temperature");
    CHECK(refused({.repetition_penalty = value}) == "repetition_penalty");
  }
  for (const double value : {-0.1, 1.1, nan}) {
    CHECK(refused({.top_p = value}) == "top_p");
    CHECK(refused({.min_p = value}) == "min_p");
  }
  CHECK(refused({.top_k = -1}) == "top_k");
  CHECK(refused({}) == "none");
  CHECK_THROWS_AS(static_cast<void>(Sampler()({})), input_error);
}
