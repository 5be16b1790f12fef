// SPDX-License-Identifier: MIT
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include <mllama/kernels/matmul.hpp>

#include "../../examples/support/probes.hpp"

namespace {

using namespace mllama;

/// Random bytes are valid codes, and with the exponent held, valid bfloat16 and binary16 numbers. Blocks have nested scales.
template <class F>
struct Operand {
  std::vector<std::uint8_t> codes, absmax_codes;
  std::vector<float> scales, nested_map;
  std::vector<std::uint16_t> halves;
  std::vector<std::int8_t> bytes;
  Weights<F> weights;

  Operand(std::size_t rows, std::size_t columns) {
    std::mt19937 random(1);
    weights.rows = rows;
    weights.columns = columns;
    if constexpr (BlockFormat<F>) {
      codes.resize(rows * columns / 2);
      for (auto& byte : codes) byte = static_cast<std::uint8_t>(random());
      absmax_codes.resize(rows * columns / weights.block);
      for (auto& byte : absmax_codes) byte = static_cast<std::uint8_t>(random());
      scales.assign(absmax_codes.size() / weights.nested_block + 1, 0.01F);
      for (int i = 0; i < 256; ++i) nested_map.push_back(static_cast<float>(i - 127) / 128);
      weights.codes = codes.data();
      weights.absmax_codes = absmax_codes.data();
      weights.nested_absmax = scales.data();
      weights.nested_map = nested_map.data();
      weights.nested_offset = 0.03F;
    } else if constexpr (RowFormat<F>) {
      bytes.resize(rows * columns);
      for (auto& byte : bytes) byte = static_cast<std::int8_t>(random() % 255 - 127);
      scales.assign(rows, 0.05F);
      weights.codes = bytes.data();
      weights.scales = scales.data();
    } else {
      halves.resize(rows * columns);
      for (auto& half : halves) half = static_cast<std::uint16_t>((random() & 0x8000U) | (0x3c00U + random() % 256U));
      weights.data = halves.data();
    }
  }
};

/// Error of some products against float64, relative to their norm.
template <class F>
double error_of(const Weights<F>& weights, const std::vector<float>& x, const std::vector<float>& y) {
  const std::size_t columns = weights.columns, rows = x.size() / columns;
  std::vector<float> decoded(columns);
  double square = 0, error = 0;
  for (std::size_t out = 0; out < weights.rows; out += 61) {
    weights.decode(out * columns, decoded);
    for (std::size_t row = 0; row < rows; row += 7) {
      double exact = 0;
      for (std::size_t i = 0; i < columns; ++i) exact += double{x[row * columns + i]} * double{decoded[i]};
      const double difference = exact - double{y[row * weights.rows + out]};
      error += difference * difference;
      square += exact * exact;
    }
  }
  return std::sqrt(error / square);
}

/// Arguments: rows of x, rows of W (out), columns of W (in). One thread: shares are of what one thread can do.
template <class F, class B>
void matmul(benchmark::State& state) {
  const auto rows = static_cast<std::size_t>(state.range(0)), out = static_cast<std::size_t>(state.range(1));
  const auto in = static_cast<std::size_t>(state.range(2));
  const Operand<F> w(out, in);
  std::vector<float> x(rows * in), y(rows * out);
  std::mt19937 random(2);
  std::normal_distribution<float> normal;
  for (float& number : x) number = normal(random);
  Context<B> ctx(1);
  for (auto _ : state) {
    kernels::matmul(ctx, Matrix<const float>{x.data(), rows, in, in}, w.weights, {}, Matrix<float>{y.data(), rows, out, out});
    benchmark::DoNotOptimize(y.data());
    benchmark::ClobberMemory();
  }
  const auto& limits = support::limits_of_one_thread();
  const double runs = static_cast<double>(state.iterations()), bytes = static_cast<double>(w.weights.bytes()) * runs;
  const double weights = static_cast<double>(in * out) * runs, flops = 2 * static_cast<double>(rows) * weights;
  using benchmark::Counter;
  state.SetLabel(std::string(ctx.body_name()));
  state.counters["B/s"] = Counter(bytes, Counter::kIsRate);
  state.counters["weights/s"] = Counter(weights, Counter::kIsRate);
  state.counters["flop/s"] = Counter(flops, Counter::kIsRate);
  state.counters["of_read"] = Counter(bytes / limits.read, Counter::kIsRate);
  state.counters["of_fma"] = Counter(flops / limits.floats, Counter::kIsRate);
  state.counters["error"] = error_of(w.weights, x, y);
}

void limits(benchmark::State& state) {
  for (auto _ : state) benchmark::DoNotOptimize(support::limits_of_one_thread());
  state.counters["B/s"] = support::limits_of_one_thread().read;
  state.counters["flop/s"] = support::limits_of_one_thread().floats;
}

void shapes(benchmark::internal::Benchmark* bench) {
  for (const std::int64_t rows : {1, 4, 8, 256}) {
    bench->Args({rows, 14336, 4096})->Args({rows, 4096, 4096})->Args({rows, 1280, 5120});
  }
  bench->Unit(benchmark::kMillisecond);
}

using InWords = cpu<arch::native, Int16>;
using InBytes = cpu<arch::native, Int8>;

}  // namespace

BENCHMARK(limits)->Iterations(1);
BENCHMARK(matmul<NF4, cpu<>>)->Apply(shapes);
BENCHMARK(matmul<NF4, InWords>)->Apply(shapes);
BENCHMARK(matmul<NF4, InBytes>)->Apply(shapes);
BENCHMARK(matmul<FP4, InBytes>)->Apply(shapes);
BENCHMARK(matmul<Int8, cpu<>>)->Apply(shapes);
BENCHMARK(matmul<Int8, InWords>)->Apply(shapes);
BENCHMARK(matmul<BF16, cpu<>>)->Apply(shapes);
BENCHMARK(matmul<F16, cpu<>>)->Apply(shapes);
BENCHMARK(matmul<NF4, reference>)->Args({1, 1280, 5120})->Unit(benchmark::kMillisecond);
BENCHMARK(matmul<BF16, reference>)->Args({1, 1280, 5120})->Unit(benchmark::kMillisecond);
