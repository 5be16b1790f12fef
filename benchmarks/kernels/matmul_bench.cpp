// SPDX-License-Identifier: MIT
#include <benchmark/benchmark.h>

#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

#include <mllama/kernels/matmul.hpp>

#include "limits.hpp"

namespace {

using namespace mllama;

/// Random bytes are valid codes of every 4-bit format, and with the exponent held, valid bfloat16 numbers.
template <class F>
struct Operand {
  std::vector<std::uint8_t> codes;
  std::vector<float> absmax;
  std::vector<std::uint16_t> halves;
  Weights<F> weights;

  Operand(std::size_t rows, std::size_t columns) {
    std::mt19937 random(1);
    weights.rows = rows;
    weights.columns = columns;
    if constexpr (BlockFormat<F>) {
      codes.resize(rows * columns / 2);
      for (auto& byte : codes) byte = static_cast<std::uint8_t>(random());
      absmax.assign(rows * columns / weights.block, 0.01F);
      weights.codes = codes.data();
      weights.absmax = absmax.data();
    } else {
      halves.resize(rows * columns);
      for (auto& half : halves) half = static_cast<std::uint16_t>(0x3c00U + random() % 256U);
      weights.data = halves.data();
    }
  }
};

/// Arguments: rows of x, columns of W (in), rows of W (out). One thread: shares are of what one thread can do.
template <class F, class B>
void matmul(benchmark::State& state) {
  const auto rows = static_cast<std::size_t>(state.range(0)), in = static_cast<std::size_t>(state.range(1));
  const auto out = static_cast<std::size_t>(state.range(2));
  const Operand<F> w(out, in);
  const std::vector<float> x(rows * in, 0.5F);
  std::vector<float> y(rows * out);
  Context<B> ctx(1);
  for (auto _ : state) {
    kernels::matmul(ctx, Matrix<const float>{x.data(), rows, in, in}, w.weights, {}, Matrix<float>{y.data(), rows, out, out});
    benchmark::DoNotOptimize(y.data());
    benchmark::ClobberMemory();
  }
  const auto& limits = mllama_bench::limits();
  const double runs = static_cast<double>(state.iterations()), bytes = static_cast<double>(w.weights.bytes()) * runs;
  const double flops = 2.0 * static_cast<double>(rows * in * out) * runs;
  using benchmark::Counter;
  state.counters["B/s"] = Counter(bytes, Counter::kIsRate);
  state.counters["flop/s"] = Counter(flops, Counter::kIsRate);
  state.counters["of_read"] = Counter(bytes / limits.bytes_per_second, Counter::kIsRate);
  state.counters["of_fma"] = Counter(flops / limits.flops_per_second, Counter::kIsRate);
}

void limits(benchmark::State& state) {
  for (auto _ : state) benchmark::DoNotOptimize(mllama_bench::limits());
  state.counters["B/s"] = mllama_bench::limits().bytes_per_second;
  state.counters["flop/s"] = mllama_bench::limits().flops_per_second;
}

void shapes(benchmark::internal::Benchmark* bench) {
  for (const std::int64_t rows : {1, 4, 64}) {
    bench->Args({rows, 4096, 14336})->Args({rows, 4096, 4096})->Args({rows, 1280, 5120});
  }
  bench->Unit(benchmark::kMillisecond);
}

}  // namespace

BENCHMARK(limits)->Iterations(1);
BENCHMARK(matmul<NF4, cpu<>>)->Apply(shapes);
BENCHMARK(matmul<BF16, cpu<>>)->Apply(shapes);
BENCHMARK(matmul<NF4, reference>)->Args({1, 1280, 5120})->Unit(benchmark::kMillisecond);
BENCHMARK(matmul<BF16, reference>)->Args({1, 1280, 5120})->Unit(benchmark::kMillisecond);
