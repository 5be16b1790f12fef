// SPDX-License-Identifier: MIT
#pragma once

#include <concepts>
#include <cstddef>
#include <optional>
#include <string_view>
#include <utility>

#include <mllama/core/format.hpp>
#include <mllama/core/instruction_set.hpp>
#include <mllama/core/tensor.hpp>
#include <mllama/core/thread_pool.hpp>
#include <mllama/core/workspace.hpp>

/// The only run-time environment: where and in which arithmetic a model runs, its threads, its memory, and who watches.

namespace mllama {

/// Instruction sets of a back end. The tag is part of its type, so that objects compiled with different flags do not share
/// instantiations when they are linked.
namespace arch {
struct generic {
  static constexpr std::string_view name = "generic";
  static constexpr InstructionSet instruction_set = InstructionSet::generic;
};
struct sse2 : generic {
  static constexpr std::string_view name = "sse2";
};
struct avx2 : generic {
  static constexpr std::string_view name = "avx2+fma";
  static constexpr InstructionSet instruction_set = InstructionSet::avx2;
};
struct avx_vnni : avx2 {
  static constexpr InstructionSet instruction_set = InstructionSet::avx_vnni;
};
struct avx512 : generic {
  static constexpr std::string_view name = "avx512bw";
  static constexpr InstructionSet instruction_set = InstructionSet::avx512;
};
struct avx512_vnni : avx512 {
  static constexpr InstructionSet instruction_set = InstructionSet::avx512_vnni;
};
struct avx512_bf16 : avx512_vnni {
  static constexpr InstructionSet instruction_set = InstructionSet::avx512_bf16;
};
struct neon : generic {
  static constexpr std::string_view name = "neon";
};
struct neon_dot : neon {
  static constexpr InstructionSet instruction_set = InstructionSet::neon_dot;
};

/// Bodies that are compiled for one instruction set use `Base`; bodies that a program has for several, the best that the processor
/// has (or MLLAMA_ARCH names). Any other tag pins both.
template <class Base>
struct at_least : Base {};

template <class Arch>
inline constexpr bool is_pinned = true;
template <class Base>
inline constexpr bool is_pinned<at_least<Base>> = std::same_as<Base, generic>;

/// The best one that this translation unit is compiled for. With MLLAMA_NATIVE it is pinned: a program for one processor is
/// compiled sooner without the bodies of others.
#if defined(__CUDACC__)
using native = at_least<generic>;
#elif defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__) && defined(__AVX512CD__)
#if defined(MLLAMA_NATIVE) && defined(__AVX512VNNI__) && defined(__AVX512BF16__)
using native = avx512_bf16;
#elif defined(MLLAMA_NATIVE) && defined(__AVX512VNNI__)
using native = avx512_vnni;
#elif defined(MLLAMA_NATIVE)
using native = avx512;
#else
using native = at_least<avx512>;
#endif
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#if defined(MLLAMA_NATIVE) && defined(__AVXVNNI__)
using native = avx_vnni;
#elif defined(MLLAMA_NATIVE)
using native = avx2;
#else
using native = at_least<avx2>;
#endif
#elif defined(__SSE2__)
using native = at_least<sse2>;
#elif defined(__ARM_NEON)
using native = at_least<neon>;
#else
using native = at_least<generic>;
#endif
}  // namespace arch

/// Arithmetic of matrix products, beside F32, BF16 and Int8: activations and codebooks as integers of 14 bits, near exact.
struct Int16 {
  static constexpr std::string_view name = "INT16";
};

/// The arithmetic of matrix products by name, and a `Compute` that leaves the choice to the context, while the program runs: see
/// Context::precision. Only matrix products are compiled several times then, not the model.
enum class Precision : unsigned char { f32, int16, bf16, int8 };
struct AnyPrecision {
  static constexpr std::string_view name = "any";
};

[[nodiscard]] constexpr std::optional<Precision> precision_of(std::string_view name) {
  if (name == "f32") return Precision::f32;
  if (name == "int16") return Precision::int16;
  if (name == "bf16") return Precision::bf16;
  if (name == "int8") return Precision::int8;
  return std::nullopt;
}

/// How keys and values are kept between forward passes: see Context::key_format. Half, half and a quarter of the memory of float32,
/// of which int8 has a scale for each position and head.
enum class KeyFormat : unsigned char { f32, bf16, f16, int8 };

[[nodiscard]] constexpr std::optional<KeyFormat> key_format_of(std::string_view name) {
  if (name == "f32") return KeyFormat::f32;
  if (name == "bf16") return KeyFormat::bf16;
  if (name == "f16") return KeyFormat::f16;
  if (name == "int8") return KeyFormat::int8;
  return std::nullopt;
}

/// Back ends are tags. A kernel's body is chosen by overload: the tag of a better back end inherits from the one it falls back to.
struct reference {
  static constexpr std::string_view name = "reference";
};

/// The processor, with instructions of `Arch`. `Compute` is the arithmetic of products with quantised weights; float weights are
/// multiplied in float32, unless it is BF16.
/// * F32:   the product of the decoded weights, summed in float32.
/// * Int16: activations, 64 at a time, and codebooks are rounded to 14 bits. Relative error of a product 1e-4 to 2e-4.
/// * BF16:  activations, codebooks and weights without one are rounded to bfloat16; products are summed in float32. Relative error 2e-3.
/// * Int8:  the same with 8 bits (7 for codebooks without VNNI). Relative error 1e-2.
template <class Arch = arch::native, class Compute = F32>
struct cpu : reference {
  using architecture = Arch;
  using compute = Compute;
  static constexpr std::string_view name = Arch::name;
};

template <class B>
concept Backend = std::derived_from<B, reference>;

namespace detail {
/// The instruction set of the bodies that there are several of.
template <class B>
[[nodiscard]] InstructionSet instruction_set_of() {
  if constexpr (!requires { typename B::architecture; }) {
    return InstructionSet::generic;
  } else if constexpr (arch::is_pinned<typename B::architecture>) {
    using Pinned = typename B::architecture;
    check(available(Pinned::instruction_set),
          [] { return Fault{.expected = concat("a processor with ", name_of(Pinned::instruction_set))}; });
    return Pinned::instruction_set;
  } else {
    return chosen_instruction_set();
  }
}
}  // namespace detail

/// Watches nothing, and compiles to nothing.
struct NoObserver {};

/// A place inside the model that an observer may look at: the hidden state that enters text layer `index`, say.
struct Tap {
  static constexpr std::size_t no_index = static_cast<std::size_t>(-1);
  std::string_view name;
  std::size_t index = no_index;
};

namespace detail {
template <class Observer>
concept WatchesParts = requires(Observer& observer) { observer.part("function", "file", 0U, [] {}); };
}  // namespace detail

/// An observer is called with a tap and a view of what is there. It may have a member `part`, see Context::parallel.
template <Backend B = cpu<>, class Observer = NoObserver>
class Context {
 public:
  using backend = B;

  /// `threads` = 0: as many as the machine runs at once.
  /// Errors:  input_error if the processor has not the instruction set that the back end or MLLAMA_ARCH pins.
  explicit Context(unsigned threads = 0, Observer observer = {}) : threads_(threads), observer_(std::move(observer)) {}

  [[nodiscard]] ThreadPool& threads() noexcept { return threads_; }
  [[nodiscard]] Workspace& workspace() noexcept { return workspace_; }
  [[nodiscard]] Observer& observer() noexcept { return observer_; }

  /// The arithmetic of matrix products, where the back end leaves it to the context: float32 unless it is set.
  [[nodiscard]] Precision precision() const noexcept
    requires std::same_as<typename B::compute, AnyPrecision>
  {
    return precision_;
  }
  void precision(Precision precision) noexcept
    requires std::same_as<typename B::compute, AnyPrecision>
  {
    precision_ = precision;
  }

  /// How conversations and pictures that begin from now on keep their keys and values: in float32 unless it is set.
  [[nodiscard]] KeyFormat key_format() const noexcept { return key_format_; }
  void key_format(KeyFormat format) noexcept { key_format_ = format; }

  /// The instruction set of matrix products, and what to call it.
  [[nodiscard]] InstructionSet instruction_set() const noexcept { return instruction_set_; }
  [[nodiscard]] std::string_view body_name() const noexcept {
    return instruction_set_ == InstructionSet::generic ? B::name : name_of(instruction_set_);
  }

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

  /// Runs `body(begin, end, worker)` over [0, count) on all threads; see ThreadPool::parallel_for. An observer that has a member
  /// `part` is given each thread's part to run, and the names of the function and of the file that ask for it.
  template <class Body>
  void parallel(std::size_t count, std::size_t grain, Body&& body, [[maybe_unused]] const char* function = __builtin_FUNCTION(),
                [[maybe_unused]] const char* file = __builtin_FILE()) {
    if constexpr (detail::WatchesParts<Observer>) {
      threads_.parallel_for(count, grain, [&](std::size_t begin, std::size_t end, unsigned worker) {
        observer_.part(function, file, worker, [&] { body(begin, end, worker); });
      });
    } else {
      threads_.parallel_for(count, grain, std::forward<Body>(body));
    }
  }

 private:
  InstructionSet instruction_set_ = detail::instruction_set_of<B>();
  Precision precision_ = Precision::f32;
  KeyFormat key_format_ = KeyFormat::f32;
  ThreadPool threads_;
  Workspace workspace_;
  [[no_unique_address]] Observer observer_;
};

}  // namespace mllama
