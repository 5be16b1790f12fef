// SPDX-License-Identifier: MIT
#pragma once

#include <concepts>
#include <cstddef>
#include <string_view>
#include <utility>

#include <mllama/core/format.hpp>
#include <mllama/core/tensor.hpp>
#include <mllama/core/thread_pool.hpp>
#include <mllama/core/workspace.hpp>

/// The only run-time environment: where and in which arithmetic a model runs, its threads, its memory, and who watches.

namespace mllama {

/// Instruction sets that a generic SIMD body is compiled for. The tag is part of a back end's type, so that objects compiled with
/// different flags do not share instantiations when they are linked.
namespace arch {
struct generic {
  static constexpr std::string_view name = "generic";
};
struct sse2 {
  static constexpr std::string_view name = "sse2";
};
struct avx2 {
  static constexpr std::string_view name = "avx2+fma";
};
struct avx512 {
  static constexpr std::string_view name = "avx512bw";
};
struct neon {
  static constexpr std::string_view name = "neon";
};

/// The best one that this translation unit is compiled for.
#if defined(__CUDACC__)
using native = generic;
#elif defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__) && defined(__AVX512CD__)
using native = avx512;
#elif defined(__AVX2__) && defined(__FMA__)
using native = avx2;
#elif defined(__SSE2__)
using native = sse2;
#elif defined(__ARM_NEON)
using native = neon;
#else
using native = generic;
#endif
}  // namespace arch

/// Back ends are tags. A kernel's body is chosen by overload: the tag of a better back end inherits from the one it falls back to.
struct reference {
  static constexpr std::string_view name = "reference";
};

/// The processor, with vectors of `Arch`; `Compute` is the arithmetic of matrix products.
template <class Arch = arch::native, class Compute = F32>
struct cpu : reference {
  using architecture = Arch;
  using compute = Compute;
  static constexpr std::string_view name = Arch::name;
};

template <class B>
concept Backend = std::derived_from<B, reference>;

/// Watches nothing, and compiles to nothing.
struct NoObserver {};

/// A place inside the model that an observer may look at: the hidden state that enters text layer `index`, say.
struct Tap {
  static constexpr std::size_t no_index = static_cast<std::size_t>(-1);
  std::string_view name;
  std::size_t index = no_index;
};

/// An observer is called with a tap and a view of what is there.
template <Backend B = cpu<>, class Observer = NoObserver>
class Context {
 public:
  using backend = B;

  /// `threads` = 0: as many as the machine runs at once.
  explicit Context(unsigned threads = 0, Observer observer = {}) : threads_(threads), observer_(std::move(observer)) {}

  [[nodiscard]] ThreadPool& threads() noexcept { return threads_; }
  [[nodiscard]] Workspace& workspace() noexcept { return workspace_; }
  [[nodiscard]] Observer& observer() noexcept { return observer_; }

  /// Shows `view` to the observer, if there is one.
  template <class V>
  void tap([[maybe_unused]] Tap where, [[maybe_unused]] const V& view) {
    if constexpr (!std::same_as<Observer, NoObserver>) observer_(where, view);
  }

  /// An intermediate tensor of a forward pass: `auto h = ctx.tensor<float, Tokens, Dim<4096>>({rows})`.
  template <class T, Axis... Axes>
  [[nodiscard]] Tensor<T, Axes...> tensor(typename Tensor<T, Axes...>::Lengths lengths) {
    return Tensor<T, Axes...>(workspace_, lengths);
  }

  /// Runs `body(begin, end, worker)` over [0, count) on all threads; see ThreadPool::parallel_for.
  template <class Body>
  void parallel(std::size_t count, std::size_t grain, Body&& body) {
    threads_.parallel_for(count, grain, std::forward<Body>(body));
  }

 private:
  ThreadPool threads_;
  Workspace workspace_;
  [[no_unique_address]] Observer observer_;
};

}  // namespace mllama
