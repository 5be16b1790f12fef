// SPDX-License-Identifier: MIT
#pragma once

#include <concepts>
#include <cstddef>
#include <optional>
#include <string_view>
#include <type_traits>
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
struct avx512_amx : avx512_bf16 {
  static constexpr InstructionSet instruction_set = InstructionSet::avx512_amx;
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
#if defined(MLLAMA_NATIVE) && defined(__AVX512VNNI__) && defined(__AVX512BF16__) && defined(__AMX_TILE__) && defined(__AMX_BF16__)
using native = avx512_amx;
#elif defined(MLLAMA_NATIVE) && defined(__AVX512VNNI__) && defined(__AVX512BF16__)
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
/// With AMX, 48 rows and more (BF16: 9) are products of sums of bfloat16 numbers: one for BF16 and Int8, two for Int16, three, which are
/// float32 again, for F32; scaled weights are what is rounded, and attention is computed alike. It is as exact as said below, or more.
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
  std::size_t index = no_index;  ///< of the layer; without one, that of Context::layer
  std::size_t first = 0;         ///< the first of the rows, where they are shown in several parts
};

/// Whether what is tapped under this name is computed for no other end: attention probabilities, which no kernel forms.
[[nodiscard]] constexpr bool is_computed_to_be_shown(std::string_view name) { return name.ends_with("_attention"); }

namespace detail {
template <class Observer>
concept WatchesParts = requires(Observer& observer) { observer.part("function", "file", 0U, [] {}); };

template <class Observer>
[[nodiscard]] constexpr bool wants(std::string_view name) {
  if constexpr (requires { Observer::wants(name); }) {
    return Observer::wants(name);
  } else {
    return !is_computed_to_be_shown(name);
  }
}
template <class Observer>
[[nodiscard]] bool wants_now(const Observer& observer, std::string_view name) {
  if constexpr (requires { observer.wants_now(name); }) {
    return wants<Observer>(name) && observer.wants_now(name);
  } else {
    return wants<Observer>(name);
  }
}
template <class Observer, class V, class Ctx>
void show(Observer& observer, const Tap& where, const V& view, Ctx& ctx) {
  if constexpr (std::invocable<Observer&, Tap, const V&, Ctx&>) {
    if (wants_now(observer, where.name)) observer(where, view, ctx);
  } else if constexpr (std::invocable<Observer&, Tap, const V&>) {
    if (wants_now(observer, where.name)) observer(where, view);
  }
}
template <class Observer, class V>
void replace(Observer& observer, const Tap& where, const V& view) {
  if constexpr (!std::is_const_v<typename V::element> && requires { observer.replace(where, view); }) {
    if (wants_now(observer, where.name)) observer.replace(where, view);
  }
}

/// What a context knows for its taps: the layer that they are in, and whether the observer is being shown something. Without an
/// observer it knows nothing.
struct Watched {
  std::size_t layer = Tap::no_index;
  bool showing = false;
};
struct Unwatched {};
}  // namespace detail

/// An observer is called with a tap and a view of constant elements of what is there, and with the context if it takes three
/// arguments. Views of axes that none of its overloads takes are not shown, nor is what an observer itself computes with the
/// context. It may say what it wants:
/// * `static constexpr bool wants(std::string_view name)`: nothing else is shown or, if it would have to be computed, compiled. An
///   observer that does not say wants all but what is computed to be shown.
/// * `bool wants_now(std::string_view name) const`: the same while the program runs.
/// * a member `part`: see Context::parallel.
/// An observer that has a member `replace`, called with a tap and a view of mutable elements, may write other values there: they are
/// what is shown, and what the model goes on with. What a model only reads, as a gate's factor, cannot be replaced.
template <Backend B = cpu<>, class Observer = NoObserver>
class Context {
 public:
  using backend = B;

  /// `threads` = 0: as many as the machine runs at once.
  /// Errors:  input_error if the processor has not the instruction set that the back end or MLLAMA_ARCH pins.
  explicit Context(unsigned threads = 0, Observer observer = Observer{}) : threads_(threads), observer_(std::move(observer)) {}
  /// On threads of the program's own; the executor must outlive the context.
  explicit Context(Executor& executor, Observer observer = Observer{}) : threads_(executor), observer_(std::move(observer)) {}
  /// With memory of the program's own, which must outlive the context and what it makes: intermediate tensors, caches, encoded pictures
  /// and sessions take theirs there, and nothing from the heap.
  explicit Context(MemorySource& memory, unsigned threads = 0, Observer observer = Observer{})
      : threads_(threads), workspace_(memory), observer_(std::move(observer)) {}
  /// With both.
  Context(MemorySource& memory, Executor& executor, Observer observer = Observer{})
      : threads_(executor), workspace_(memory), observer_(std::move(observer)) {}

  [[nodiscard]] ThreadPool& threads() noexcept { return threads_; }
  [[nodiscard]] Workspace& workspace() noexcept { return *used_; }
  /// Where what is kept between passes takes its memory.
  [[nodiscard]] MemorySource& memory() const noexcept { return used_->source(); }
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

  /// Whether the observer wants what is tapped under this name: `if constexpr (Ctx::wants("cross_attention")) …`.
  [[nodiscard]] static constexpr bool wants([[maybe_unused]] std::string_view name) {
    if constexpr (watched) {
      return detail::wants<Observer>(name);
    } else {
      return false;
    }
  }
  /// Whether it does so now.
  [[nodiscard]] bool wants_now([[maybe_unused]] std::string_view name) const {
    if constexpr (watched) {
      return !taps_.showing && !rehearsing() && detail::wants_now(observer_, name);
    } else {
      return false;
    }
  }

  /// A rehearsal, which lasts as long as what is returned lives: passes take and give back the memory that they need, from `source`,
  /// but nothing is computed or shown, and weights need not be read. So a plan knows what a pass takes without a formula of its own.
  [[nodiscard]] auto rehearse(MemorySource& source) { return Rehearsal(*this, source); }
  [[nodiscard]] bool rehearsing() const noexcept { return used_ != &workspace_; }

  /// Shows `view` to the observer, if there is one.
  template <class T, Axis... Axes>
  void tap([[maybe_unused]] Tap where, [[maybe_unused]] const View<T, Axes...>& view) {
    if constexpr (watched) show(where, view);
  }
  /// Shows a tensor, and hands it on: `mlp(ctx.shown("norm", norm(x, ctx)), ctx)`.
  template <class X>
  X&& shown([[maybe_unused]] std::string_view name, X&& x) {
    tap({name}, x.view());
    return std::forward<X>(x);
  }
  /// Taps are in layer `index` as long as what is returned lives.
  [[nodiscard]] auto layer([[maybe_unused]] std::size_t index) {
    if constexpr (watched) {
      return Set<std::size_t>(taps_.layer, index);
    } else {
      return detail::Unwatched{};
    }
  }

  /// An intermediate tensor of a forward pass: `auto h = ctx.tensor<float, Tokens, Dim<4096>>({rows})`.
  template <class T, Axis... Axes>
  [[nodiscard]] Tensor<T, Axes...> tensor(typename Tensor<T, Axes...>::Lengths lengths) {
    return Tensor<T, Axes...>(*used_, lengths);
  }

  /// Runs `body(begin, end, worker)` over [0, count) on all threads; see ThreadPool::parallel_for. An observer that has a member
  /// `part` is given each thread's part to run, and the names of the function and of the file that ask for it.
  template <class Body>
  void parallel(std::size_t count, std::size_t grain, Body&& body, [[maybe_unused]] const char* function = __builtin_FUNCTION(),
                [[maybe_unused]] const char* file = __builtin_FILE()) {
    if (rehearsing()) return;
    if constexpr (detail::WatchesParts<Observer>) {
      threads_.parallel_for(count, grain, std::forward<Body>(body),
                            [&](unsigned worker, auto&& run) { observer_.part(function, file, worker, run); });
    } else {
      threads_.parallel_for(count, grain, std::forward<Body>(body));
    }
  }

 private:
  static constexpr bool watched = !std::same_as<Observer, NoObserver>;

  /// Another value for as long as it lives.
  template <class T>
  class Set {
   public:
    Set(T& place, T value) noexcept : place_(&place), before_(std::exchange(place, value)) {}
    Set(const Set&) = delete;
    Set& operator=(const Set&) = delete;
    ~Set() { *place_ = before_; }

   private:
    T* place_;
    T before_;
  };

  /// Another workspace, for as long as it lives.
  class Rehearsal {
   public:
    Rehearsal(Context& ctx, MemorySource& source) : workspace_(source), set_(ctx.used_, &workspace_) {}

    [[nodiscard]] Workspace& workspace() noexcept { return workspace_; }

   private:
    Workspace workspace_;
    Set<Workspace*> set_;
  };

  template <class T, Axis... Axes>
  void show(Tap where, const View<T, Axes...>& view) {
    if (taps_.showing || rehearsing()) return;
    if (where.index == Tap::no_index) where.index = taps_.layer;
    const Set<bool> showing(taps_.showing, true);
    detail::replace(observer_, where, view);
    detail::show(observer_, where, View<const T, Axes...>(view), *this);
  }

  InstructionSet instruction_set_ = detail::instruction_set_of<B>();
  Precision precision_ = Precision::f32;
  KeyFormat key_format_ = KeyFormat::f32;
  ThreadPool threads_;
  Workspace workspace_;
  Workspace* used_ = &workspace_;
  [[no_unique_address]] Observer observer_;
  [[no_unique_address]] std::conditional_t<watched, detail::Watched, detail::Unwatched> taps_;
};

}  // namespace mllama
