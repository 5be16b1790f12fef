// SPDX-License-Identifier: MIT
// Kernels that pass over rows: bytes are those read and written, as if nothing were in a cache.
#include <benchmark/benchmark.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include <mllama/kernels/activation.hpp>
#include <mllama/kernels/norm.hpp>
#include <mllama/kernels/rope.hpp>
#include <mllama/kernels/softmax.hpp>

#include "../../examples/support/probes.hpp"

namespace {

using namespace mllama;

/// Arguments: rows, width. `passes` counts reads and writes of an element.
template <class B, class Kernel>
void run(benchmark::State& state, int passes, Kernel&& kernel) {
  const auto rows = static_cast<std::size_t>(state.range(0)), width = static_cast<std::size_t>(state.range(1));
  std::vector<float> x(rows * width), y(rows * width), weight(width, 1.0F);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i % 101) * 0.05F - 2.5F;
  Context<B> ctx(1);
  for (auto _ : state) {
    kernel(ctx, Matrix<float>{x.data(), rows, width, width}, weight.data(), Matrix<float>{y.data(), rows, width, width});
    benchmark::DoNotOptimize(y.data());
    benchmark::ClobberMemory();
  }
  const double bytes = static_cast<double>(x.size() * sizeof(float)) * passes * static_cast<double>(state.iterations());
  using benchmark::Counter;
  state.counters["B/s"] = Counter(bytes, Counter::kIsRate);
  state.counters["of_read"] = Counter(bytes / support::limits_of_one_thread().read, Counter::kIsRate);
}

template <class B>
void rms_norm(benchmark::State& state) {
  run<B>(state, 2, [](auto& ctx, auto x, const float* weight, auto y) { kernels::rms_norm(ctx, x, weight, 1e-5F, y); });
}
template <class B>
void layer_norm(benchmark::State& state) {
  run<B>(state, 2, [](auto& ctx, auto x, const float* weight, auto y) { kernels::layer_norm(ctx, x, weight, weight, 1e-5F, y); });
}
template <class B>
void softmax(benchmark::State& state) {
  run<B>(state, 2, [](auto& ctx, auto x, const float*, auto) { kernels::softmax(ctx, x); });
}
template <class B>
void gelu(benchmark::State& state) {
  run<B>(state, 2, [](auto& ctx, auto x, const float*, auto) { kernels::activate<GELU>(ctx, x); });
}
template <class B>
void silu_times_up(benchmark::State& state) {
  run<B>(state, 3, [](auto& ctx, auto x, const float*, auto y) { kernels::activate_and_multiply<SiLU>(ctx, y, x); });
}
template <class B>
void rope(benchmark::State& state) {
  const std::size_t rows = static_cast<std::size_t>(state.range(0));
  const std::vector<float> angles(rows * 128, 0.7F);
  run<B>(state, 2, [&](auto& ctx, auto x, const float*, auto) {
    kernels::rope(ctx, Matrix<const float>{angles.data(), rows, 128, 128}, x);
  });
}

}  // namespace

#define MLLAMA_ROWS(kernel, width)                                \
  BENCHMARK(kernel<cpu<>>)->Args({1, width})->Args({256, width}); \
  BENCHMARK(kernel<reference>)->Args({256, width})
MLLAMA_ROWS(rms_norm, 4096);
MLLAMA_ROWS(layer_norm, 1280);
MLLAMA_ROWS(softmax, 6404);
MLLAMA_ROWS(gelu, 5120);
MLLAMA_ROWS(silu_times_up, 14336);
MLLAMA_ROWS(rope, 4096);
