// SPDX-License-Identifier: MIT
#include <benchmark/benchmark.h>

#include <cstddef>

#include <mllama/core/thread_pool.hpp>

namespace {

/// One empty fork and join: a decode step has about two hundred.
void thread_pool(benchmark::State& state) {
  mllama::ThreadPool pool(static_cast<unsigned>(state.range(0)));
  for (auto _ : state) {
    pool.parallel_for(1000, 1, [](std::size_t begin, std::size_t, unsigned) { benchmark::DoNotOptimize(begin); });
  }
}

#if defined(_OPENMP)
/// The same by OpenMP; compile this file with -fopenmp.
void openmp(benchmark::State& state) {
  const int threads = static_cast<int>(state.range(0));
  for (auto _ : state) {
#pragma omp parallel num_threads(threads)
    benchmark::DoNotOptimize(threads);
  }
}
BENCHMARK(openmp)->Arg(1)->Arg(2)->UseRealTime();
#endif

}  // namespace

BENCHMARK(thread_pool)->Arg(1)->Arg(2)->UseRealTime();
