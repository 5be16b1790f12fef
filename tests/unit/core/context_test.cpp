// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdlib>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <mllama/core/context.hpp>

namespace {

using namespace mllama;

static_assert(std::same_as<decltype(Context())::backend, cpu<>>, "the default is the best back end this source is compiled for");
static_assert(std::derived_from<cpu<arch::avx2, BF16>, reference>, "a back end falls back to the reference");
static_assert(!std::same_as<cpu<arch::avx2>, cpu<arch::avx512>>,
              "objects compiled for different processors share no instantiation");
static_assert(Backend<reference> && !Backend<int>);

struct Watcher {
  std::vector<std::pair<std::string, std::size_t>>* seen;
  template <class V>
  void operator()(Tap tap, const V& view) {
    seen->emplace_back(std::string(tap.name), view.size());
  }
};

/// Notes for each worker who asked for its part.
struct Parts {
  std::vector<std::string>* seen;
  template <class Run>
  void part(const char* function, const char* file, unsigned worker, Run&& run) {
    run();
    seen[worker].push_back(concat(function, ' ', std::string_view(file).substr(std::string_view(file).rfind('/') + 1)));
  }
};

constexpr InstructionSet all_sets[]{InstructionSet::generic,    InstructionSet::avx2,        InstructionSet::avx_vnni,
                                    InstructionSet::avx512,     InstructionSet::avx512_vnni, InstructionSet::avx512_bf16,
                                    InstructionSet::avx512_amx, InstructionSet::neon_dot};

/// A variable of the environment, which has its value again afterwards.
class Variable {
 public:
  explicit Variable(const char* name) : name_(name) {
    if (const char* const value = std::getenv(name)) before_ = value;
    unsetenv(name);
  }
  Variable(const Variable&) = delete;
  Variable& operator=(const Variable&) = delete;
  ~Variable() {
    unsetenv(name_);
    if (before_) set(*before_);
  }
  void set(std::string_view value) const { setenv(name_, std::string(value).c_str(), 1); }

 private:
  const char* name_;
  std::optional<std::string> before_;
};

}  // namespace

TEST_CASE("an observer sees what is tapped; without one a tap costs nothing") {
  std::vector<std::pair<std::string, std::size_t>> seen;
  Context<cpu<>, Watcher> ctx(1, Watcher{&seen});
  const auto tensor = ctx.tensor<float, Tokens, Dim<4>>({3});
  ctx.tap({"states", 2}, tensor.view());
  REQUIRE(seen.size() == 1);
  CHECK(seen[0].first == "states");
  CHECK(seen[0].second == 12);
  struct Members {
    InstructionSet instruction_set;
    ThreadPool threads;
    Workspace workspace;
    Workspace* used;
  };
  static_assert(sizeof(Context<>) == sizeof(Members), "no observer takes no room");
}

namespace {
/// Takes text rows only, of any width, and calls the context.
struct ByType {
  std::vector<std::string>* seen;
  static constexpr bool wants(std::string_view name) { return name != "unwanted"; }
  [[nodiscard]] bool wants_now(std::string_view name) const { return name != "not_now"; }
  template <int N, class Ctx>
  void operator()(Tap tap, View<const float, Tokens, Dim<N>> view, Ctx& ctx) {
    const bool has_layer = tap.index != Tap::no_index;
    seen->push_back(
        concat(tap.name, has_layer ? concat(".", tap.index) : std::string(), " ", view.rows(), "x", N, " from ", tap.first));
    CHECK_FALSE(ctx.wants_now(tap.name));
    ctx.tap({"by_the_observer"}, view);
  }
};
}  // namespace

TEST_CASE("an observer is shown what it wants, by name and by type, with the layer") {
  std::vector<std::string> seen;
  using Ctx = Context<cpu<>, ByType>;
  Ctx ctx(1, ByType{&seen});
  auto text = ctx.tensor<float, Tokens, Dim<4>>({3});
  const auto image = ctx.tensor<float, ImageTokens, Dim<4>>({3});
  ctx.tap({"before"}, text.view());
  {
    [[maybe_unused]] const auto layer = ctx.layer(7);
    ctx.tap({"inside"}, text.view().slice(1, 2));
    ctx.tap({"image"}, image.view());
    ctx.tap({"unwanted"}, text.view());
    ctx.tap({"not_now"}, text.view());
    ctx.tap({.name = "own", .index = 2, .first = 5}, text.view());
    CHECK(ctx.shown("handed_on", text).data() == text.data());
    CHECK(ctx.shown("handed_on", ctx.tensor<float, Tokens, Dim<2>>({1})).rows() == 1);
  }
  ctx.tap({"after"}, text.view());
  CHECK(seen == std::vector<std::string>{"before 3x4 from 0", "inside.7 2x4 from 0", "own.2 3x4 from 5", "handed_on.7 3x4 from 0",
                                         "handed_on.7 1x2 from 0", "after 3x4 from 0"});
  static_assert(Ctx::wants("cross_attention") && !Ctx::wants("unwanted"), "an observer says what it wants");
  CHECK(ctx.wants_now("cross_attention"));
  CHECK_FALSE(ctx.wants_now("not_now"));
  CHECK_FALSE(ctx.wants_now("unwanted"));

  static_assert(Context<cpu<>, Watcher>::wants("hidden_states") && !Context<cpu<>, Watcher>::wants("self_attention"),
                "without a word, an observer has nothing computed for it");
  static_assert(!Context<>::wants("hidden_states") && !Context<>::wants("self_attention"), "nobody wants nothing");
  CHECK_FALSE(Context<>(1).wants_now("hidden_states"));
}

TEST_CASE("the layer of the taps and the right to be shown something survive an exception") {
  struct Thrower {
    bool* armed;
    std::vector<std::size_t>* layers;
    void operator()(Tap tap, View<const float, Tokens, Dim<4>>) {
      layers->push_back(tap.index);
      if (*armed) throw input_error("enough");
    }
  };
  bool armed = true;
  std::vector<std::size_t> layers;
  Context<cpu<>, Thrower> ctx(1, Thrower{&armed, &layers});
  const auto text = ctx.tensor<float, Tokens, Dim<4>>({3});
  const auto run = [&] {
    [[maybe_unused]] const auto layer = ctx.layer(3);
    ctx.tap({"states"}, text.view());
  };
  CHECK_THROWS_AS(run(), input_error);
  armed = false;
  ctx.tap({"states"}, text.view());
  CHECK(layers == std::vector<std::size_t>{3, Tap::no_index});
}

TEST_CASE("an observer may run the parts of parallel regions") {
  std::vector<std::string> seen[3];
  Context<cpu<>, Parts> ctx(3, Parts{seen});
  std::vector<int> done(100, 0);
  ctx.parallel(done.size(), 10, [&](std::size_t begin, std::size_t end, unsigned worker) {
    for (std::size_t i = begin; i < end; ++i) done[i] += static_cast<int>(worker) + 1;
  });
  CHECK(std::count(done.begin(), done.end(), 0) == 0);
  for (unsigned worker = 0; worker < 3; ++worker) {
    REQUIRE(seen[worker].size() == 1);
    CHECK(seen[worker][0].ends_with(" context_test.cpp"));
  }
}

TEST_CASE("tensors of a context come from its workspace") {
  Context ctx(1);
  const void* first = nullptr;
  for (int pass = 0; pass < 3; ++pass) {
    const auto tensor = ctx.tensor<float, Tokens, Dim<4>>({1000});
    if (pass == 0) first = tensor.data();
    CHECK(tensor.data() == first);
  }
}

TEST_CASE("a context runs the best bodies that the processor has, or those that MLLAMA_ARCH names") {
  using Open = cpu<arch::at_least<arch::sse2>>;
  const Variable arch("MLLAMA_ARCH");
  const InstructionSet best = Context<Open>(1).instruction_set();
  CHECK(available(best));
  for (const InstructionSet set : all_sets) {
    CAPTURE(name_of(set));
    arch.set(name_of(set));
    if (available(set)) {
      CHECK(set <= best);
      const Context<Open> ctx(1);
      CHECK(ctx.instruction_set() == set);
      CHECK(ctx.body_name() == (set == InstructionSet::generic ? Open::name : name_of(set)));
    } else {
      CHECK_THROWS_AS(Context<Open>(1), input_error);
    }
  }
  arch.set("");
  CHECK(Context<Open>(1).instruction_set() == best);
  arch.set("z80");
  std::string message;
  try {
    const Context<Open> ctx(1);
  } catch (const input_error& fault) {
    message = fault.what();
  }
  CHECK(message.starts_with("MLLAMA_ARCH: expected one of generic"));
  CHECK(message.ends_with("found z80"));
  CHECK(Context<reference>(1).body_name() == "reference");
}

TEST_CASE("a tag pins bodies, whatever the environment says") {
  const Variable arch("MLLAMA_ARCH");
  arch.set("generic");
  const auto check = [](auto tag) {
    using Arch = decltype(tag);
    CAPTURE(name_of(Arch::instruction_set));
    if (available(Arch::instruction_set)) {
      CHECK(Context<cpu<Arch>>(1).instruction_set() == Arch::instruction_set);
    } else {
      CHECK_THROWS_AS(Context<cpu<Arch>>(1), input_error);
    }
  };
  check(arch::generic{});
  check(arch::sse2{});
  check(arch::avx2{});
  check(arch::avx_vnni{});
  check(arch::avx512{});
  check(arch::avx512_vnni{});
  check(arch::avx512_bf16{});
  check(arch::avx512_amx{});
  check(arch::neon{});
  check(arch::neon_dot{});
}

TEST_CASE("a precision has a name, and a context one if its back end leaves it open") {
  CHECK(precision_of("f32") == Precision::f32);
  CHECK(precision_of("int16") == Precision::int16);
  CHECK(precision_of("bf16") == Precision::bf16);
  CHECK(precision_of("int8") == Precision::int8);
  CHECK(!precision_of("INT8"));
  CHECK(!precision_of(""));
  using Any = Context<cpu<arch::native, AnyPrecision>>;
  Any ctx(1);
  CHECK(ctx.precision() == Precision::f32);
  ctx.precision(Precision::int8);
  CHECK(ctx.precision() == Precision::int8);
  const auto open = []<class C>(const C& context) { return requires { context.precision(); }; };
  CHECK(open(ctx));
  CHECK(!open(Context<>(1)));
  CHECK(!open(Context<reference>(1)));
}
