// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include <mllama/generate/plan.hpp>
#include <unit/models/tiny.hpp>

using namespace mllama;
using namespace mllama_test;

namespace {

constexpr std::uint32_t seed = 61;

/// Wide enough for the bodies of instruction sets, and stored in 4 bits.
struct WideVision : TinyVision {
  using weights = NF4;
  static constexpr int hidden = 64, inner = 128;
};
struct WideText : TinyText {
  using weights = NF4;
  static constexpr int hidden = 128, inner = 256;
};
struct Wide : Mllama<WideVision, WideText> {
  [[maybe_unused]] static constexpr std::string_view name = "wide";
};

struct Watcher {
  std::size_t* shown;
  void operator()(const Tap&, const auto&) const { ++*shown; }
};

/// The most memory that the same work takes when it is done.
template <class Model, class Ctx>
std::size_t measured(const Model& model, const Workload& work, Ctx& ctx, const CountedMemory& memory) {
  using Text = typename Model::Text;
  std::vector<Picture<Model>> pictures;
  RandomPicture<typename Model::Vision> source(seed);
  // As encode_picture, whose processor takes other pictures than random ones.
  for (std::size_t i = 0; i < work.images; ++i) {
    const Tensor<float, Rows> pixels({source.pixels().size()}, ctx.memory());
    pictures.push_back(std::allocate_shared<const EncodedImage<Text>>(std::pmr::polymorphic_allocator<>(&ctx.memory()),
                                                                      model.encode(source.tiles(), Model::numerics, ctx)));
  }
  std::vector<std::int32_t> prompt(work.tokens, 7);
  std::fill_n(prompt.begin(), work.images, std::int32_t{Text::image_token});
  Session<Model, Ctx> session(model, ctx);
  Sampler sampler;
  const auto generated = generate(session, std::span<const std::int32_t>(prompt), std::span<const Picture<Model>>(pictures),
                                  sampler, {{}, work.new_tokens}, [](std::int32_t) { return true; });
  CHECK(generated.size() == work.new_tokens);
  return memory.peak();
}

template <class Model, class B>
void compare(std::string_view format, unsigned threads, KeyFormat keys, Precision precision) {
  CAPTURE(format);
  CAPTURE(threads);
  CAPTURE(static_cast<int>(keys));
  CAPTURE(static_cast<int>(precision));
  const auto random = random_weights<Model>(seed);
  const PlanPolicy policy{storage_of(format, false).value(), keys};
  for (const Workload& work : {Workload{1, 0, 1}, Workload{530, 2, 3}, Workload{5, 1, 9}}) {
    CAPTURE(work.tokens);
    CountedMemory memory;
    Context<B> ctx(memory, threads);
    ctx.key_format(keys);
    if constexpr (requires { ctx.precision(precision); }) ctx.precision(precision);
    const Plan<Model> expected = plan<Model>(work, policy, ctx);
    CHECK(memory.peak() == 0);
    CHECK(ctx.key_format() == keys);
    CHECK(measured(*random.model, work, ctx, memory) == expected.total().caches + expected.workspace);
  }
}

}  // namespace

TEST_CASE("what is planned is what a run takes, byte for byte") {
  using Cpu = cpu<arch::native, AnyPrecision>;
  for (const KeyFormat keys : {KeyFormat::f32, KeyFormat::int8}) {
    compare<Tiny, Cpu>("f32", 1, keys, Precision::f32);
    compare<Wide, Cpu>("nf4", 1, keys, Precision::f32);
    compare<Wide, Cpu>("nf4", 2, keys, Precision::int16);
    compare<Wide, Cpu>("nf4", 1, keys, Precision::int8);
  }
  compare<Tiny, reference>("f32", 1, KeyFormat::f32, Precision::f32);
}

TEST_CASE("a rehearsal computes and shows nothing, and leaves the context as it was") {
  std::size_t shown = 0;
  Context<cpu<>, Watcher> ctx(1, Watcher{&shown});
  std::size_t ran = 0;
  {
    CountedMemory memory;
    const auto rehearsal = ctx.rehearse(memory);
    CHECK(ctx.rehearsing());
    CHECK(&ctx.memory() == &memory);
    CHECK_FALSE(ctx.wants_now("hidden_states"));
    ctx.parallel(5, 1, [&](std::size_t, std::size_t, unsigned) { ++ran; });
    const auto tensor = ctx.tensor<float, Rows>({std::size_t{1} << 20U});
    ctx.tap({"hidden_states"}, tensor.view());
    CHECK(memory.used() >= std::size_t{4} << 20U);
  }
  CHECK(ran == 0);
  CHECK(shown == 0);
  CHECK_FALSE(ctx.rehearsing());
  CHECK(ctx.workspace().capacity() == 0);
  ctx.parallel(5, 1, [&](std::size_t begin, std::size_t end, unsigned) { ran += end - begin; });
  CHECK(ran == 5);
}

TEST_CASE("a plan of the largest model takes no memory for what it plans") {
  Context<cpu<>> ctx(2);
  const auto of_90b = plan<Llama32Vision90B>({.tokens = 4096, .images = 1, .new_tokens = 1}, {}, ctx);
  CHECK(of_90b.total().weights > 48'000'000'000);
  CHECK(of_90b.total().caches > 2'600'000'000);
  CHECK(of_90b.workspace > 300'000'000);
  CHECK(of_90b.workspace < 2'000'000'000);
}
