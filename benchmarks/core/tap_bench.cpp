// SPDX-License-Identifier: MIT
// What watching costs: a token of a small model, whose layers take microseconds, with observers and without.

#include <benchmark/benchmark.h>

#include <cstdint>
#include <string_view>
#include <utility>

#include <mllama/core/context.hpp>
#include <mllama/models/mllama/random.hpp>
#include <mllama/models/mllama/text.hpp>
#include <mllama/observe/non_finite_finder.hpp>
#include <mllama/observe/recorder.hpp>
#include <mllama/observe/statistics.hpp>

namespace {

using namespace mllama;

/// The sizes of Pocket.
struct Text : TextConfig {
  using weights = F32;
  using head_weights = F32;
  static constexpr int vocab = 640;
  static constexpr int hidden = 128, inner = 256, heads = 4, kv_heads = 2, layers = 6;
  static constexpr std::array cross{2, 4};
};

/// Is asked, and says no: all that remains is a comparison at each tap.
struct Nothing {
  static constexpr bool wants(std::string_view) { return true; }
  [[nodiscard]] bool wants_now(std::string_view) const { return false; }
  void operator()(const Tap&, const auto&) const {}
};

/// One more token after 63 others.
template <class Observer>
void token(benchmark::State& state, Observer observer) {
  static const auto random = random_weights<CausalLM<Text>>(1);
  Context<cpu<>, Observer> ctx(1, std::move(observer));
  KeyValueCache<Text> cache;
  std::int32_t ids[64]{}, positions[64]{};
  for (std::int32_t i = 0; i < 64; ++i) positions[i] = i;
  const auto run = [&](std::size_t first, std::size_t rows) {
    const TextSequence<Text> sequence{.rows = rows, .cache = &cache};
    const std::span<const std::int32_t> all_ids(ids), all_positions(positions);
    const auto states =
        random.model->model({all_ids.subspan(first, rows), all_positions.subspan(first, rows), {&sequence, 1}}, Numerics{}, ctx);
    benchmark::DoNotOptimize(random.model->logits(states.view().slice(rows - 1, 1), ctx).data());
  };
  run(0, 63);
  for (auto _ : state) {
    cache.truncate(63);
    run(63, 1);
    if constexpr (requires { ctx.observer().clear(); }) ctx.observer().clear();
  }
}

void tap_none(benchmark::State& state) { token(state, NoObserver{}); }
void tap_nothing_wanted(benchmark::State& state) { token(state, Nothing{}); }
void tap_non_finite_finder(benchmark::State& state) { token(state, NonFiniteFinder{}); }
void tap_statistics(benchmark::State& state) { token(state, Statistics{}); }
void tap_recorder_of_hidden_states(benchmark::State& state) { token(state, Recorder{{"hidden_states"}}); }
void tap_recorder_of_self_attention(benchmark::State& state) { token(state, Recorder{{"self_attention"}}); }

BENCHMARK(tap_none);
BENCHMARK(tap_nothing_wanted);
BENCHMARK(tap_non_finite_finder);
BENCHMARK(tap_statistics);
BENCHMARK(tap_recorder_of_hidden_states);
BENCHMARK(tap_recorder_of_self_attention);

}  // namespace
