// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <vector>

#include <mllama/core/context.hpp>
#include <mllama/kernels/simd/batch.hpp>

/// What one thread of this machine can do, measured once in the run that uses it.

namespace mllama_bench {

struct Limits {
  double bytes_per_second = 0, flops_per_second = 0;
};

inline Limits measure_limits() {
  const auto seconds = [](auto&& work) {
    double best = 1e9;
    for (int i = 0; i < 4; ++i) {
      const auto begin = std::chrono::steady_clock::now();
      work();
      best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
    }
    return best;
  };
  Limits limits;
  volatile float sink = 0;
#if MLLAMA_HAS_XSIMD
  namespace detail = mllama::kernels::detail;
  if constexpr (detail::VectorArch<mllama::arch::native>) {
    using B = detail::FloatBatch<mllama::arch::native>;
    const std::vector<float> memory(std::size_t{32} << 20U, 1.0F);
    limits.bytes_per_second = static_cast<double>(memory.size() * sizeof(float)) / seconds([&] {
                                sink = detail::sum_row<B>(memory.data(), memory.size(), 0, [](B value) { return value; });
                              });
    constexpr std::size_t chains = 12, steps = 1000000;
    limits.flops_per_second =
        static_cast<double>(2 * B::size * chains * steps) / seconds([&] {
          B sums[chains];
          for (B& sum : sums) sum = B(1.0F);
          const B factor = detail::held(B(0.999F));
          for (std::size_t i = 0; i < steps; ++i) {
            detail::unroll<chains>([&](auto c) { sums[c] = detail::held(xsimd::fma(sums[c], factor, factor)); });
          }
          for (const B& sum : sums) sink = detail::sum_of_lanes(sum);
        });
  }
#endif
  return limits;
}

inline const Limits& limits() {
  static const Limits measured = measure_limits();
  return measured;
}

}  // namespace mllama_bench
