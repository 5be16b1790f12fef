// SPDX-License-Identifier: MIT
#include <benchmark/benchmark.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include <mllama/layers/visibility.hpp>

#include "../../examples/support/probes.hpp"

namespace {

using namespace mllama;

/// Arguments: query rows, keys, heads, key/value heads, size of a head; causal if 1: row r sees the keys up to its own position.
template <class B>
void attention(benchmark::State& state) {
  const auto argument = [&](std::size_t index) { return static_cast<std::size_t>(state.range(index)); };
  const std::size_t rows = argument(0), keys = argument(1), dim = argument(4);
  const kernels::Heads heads{argument(2), argument(3), dim};
  const std::vector<float> q(rows * heads.heads * dim, 0.01F), k(keys * heads.kv_heads * dim, 0.02F), v(k.size(), 0.5F);
  std::vector<float> out(q.size());
  Context<B> ctx(1);
  const kernels::KeyBlock block{k.data(), v.data(), keys};
  const std::size_t width = heads.heads * dim;
  const bool causal = state.range(5) != 0;
  const VisibilityTables visible = causal ? see_the_past(keys - rows, rows, 0, ctx) : see_everything(rows, {&block, 1}, ctx);
  for (auto _ : state) {
    kernels::attention(ctx, heads, Matrix<const float>{q.data(), rows, width, width}, {&block, 1}, visible,
                       Matrix<float>{out.data(), rows, width, width});
    benchmark::DoNotOptimize(out.data());
    benchmark::ClobberMemory();
  }
  const auto& limits = support::limits_of_one_thread();
  const double pairs = static_cast<double>(rows) * (static_cast<double>(keys) - (causal ? static_cast<double>(rows - 1) / 2 : 0));
  const double runs = static_cast<double>(state.iterations());
  const double flops = 4.0 * pairs * static_cast<double>(width) * runs;
  const double bytes = static_cast<double>((k.size() + v.size()) * sizeof(float)) * runs;
  using benchmark::Counter;
  state.counters["B/s"] = Counter(bytes, Counter::kIsRate);
  state.counters["flop/s"] = Counter(flops, Counter::kIsRate);
  state.counters["of_read"] = Counter(bytes / limits.read, Counter::kIsRate);
  state.counters["of_fma"] = Counter(flops / limits.floats, Counter::kIsRate);
}

}  // namespace

BENCHMARK(attention<cpu<>>)  // a quarter of the vision model's four tiles, a prompt, decoding at three depths, cross-attention
    ->Args({1608, 1608, 16, 16, 80, 0})
    ->Args({512, 512, 32, 8, 128, 1})
    ->Args({1, 512, 32, 8, 128, 1})
    ->Args({1, 4096, 32, 8, 128, 1})
    ->Args({1, 16384, 32, 8, 128, 1})
    ->Args({1, 6404, 32, 8, 128, 0})
    ->Unit(benchmark::kMillisecond);
BENCHMARK(attention<reference>)->Args({1, 512, 32, 8, 128, 1})->Unit(benchmark::kMillisecond);
