// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <concepts>
#include <cstddef>
#include <string>
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

}  // namespace

TEST_CASE("an observer sees what is tapped; without one a tap costs nothing") {
  std::vector<std::pair<std::string, std::size_t>> seen;
  Context<cpu<>, Watcher> ctx(1, Watcher{&seen});
  const auto tensor = ctx.tensor<float, Tokens, Dim<4>>({3});
  ctx.tap({"states", 2}, tensor.view());
  REQUIRE(seen.size() == 1);
  CHECK(seen[0].first == "states");
  CHECK(seen[0].second == 12);
  static_assert(sizeof(Context<>) == sizeof(ThreadPool) + sizeof(Workspace), "no observer takes no room");
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
