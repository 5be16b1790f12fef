// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <numeric>
#include <random>
#include <span>
#include <vector>

#include <mllama/layers/lora.hpp>
#include <mllama/layers/screened_head.hpp>

using namespace mllama;

TYPE_TO_STRING(F32);
TYPE_TO_STRING(F16);
TYPE_TO_STRING(BF16);

namespace {

constexpr std::uint32_t seed = 61;
constexpr float infinity = std::numeric_limits<float>::infinity(), not_a_number = std::numeric_limits<float>::quiet_NaN();

/// A head, its numbers before they are stored, and a row of activations.
template <class F, int In, int Out>
class Fixture {
 public:
  static constexpr std::size_t columns = In, rows = Out;
  using Head = Linear<F, In, Out>;
  using Screen = ScreenedHead<F, In, Out>;

  explicit Fixture(std::uint32_t number = seed) : random(number), values(columns * rows), stored_(columns * rows) {
    std::normal_distribution<float> normal;
    for (float& value : values) value = 0.03F * normal(random);
    for (float& value : x.flat()) value = normal(random);
  }
  [[nodiscard]] std::span<float> row(std::size_t r) { return std::span(values).subspan(r * columns, columns); }

  /// The head of the numbers as they are now.
  Head& head() {
    std::ranges::transform(values, stored_.begin(), [](float value) { return F::encode(value); });
    head_.weight.weights = {stored_.data(), rows, columns};
    return head_;
  }

  std::minstd_rand random;
  std::vector<float> values;
  Tensor<float, Tokens, Dim<In>> x{typename Tensor<float, Tokens, Dim<In>>::Lengths{1}};

 private:
  std::vector<typename F::stored> stored_;
  Head head_;
};

bool same_bits(float a, float b) { return std::bit_cast<std::uint32_t>(a) == std::bit_cast<std::uint32_t>(b); }

/// How many outputs are there, all others being not_a_candidate. 0 if one is wrong, or one of the `candidates` largest is missing.
std::size_t right_candidates(std::span<const float> full, std::span<const float> screened, std::size_t candidates) {
  std::vector<float> sorted(full.begin(), full.end());
  std::ranges::sort(sorted, std::greater<>{});
  const float least = sorted[std::min(candidates, sorted.size()) - 1];
  std::size_t count = 0;
  for (std::size_t r = 0; r < full.size(); ++r) {
    if (same_bits(screened[r], full[r])) {
      ++count;
    } else if (!same_bits(screened[r], not_a_candidate) || full[r] >= least) {
      return 0;
    }
  }
  return count;
}

/// The same for a head and activations: how many outputs are computed.
template <class Fix, class Ctx>
std::size_t computed(Fix& fixture, std::size_t candidates, Ctx& ctx) {
  constexpr int Out = static_cast<int>(Fix::rows);
  auto& head = fixture.head();
  const typename Fix::Screen screen(head, ctx);
  Tensor<float, Tokens, Dim<Out>> full({1}), screened({1});
  head.into(fixture.x, full, ctx);
  screened.fill(not_a_number);
  screen.into(fixture.x, candidates, screened, ctx);
  return right_candidates(full.flat(), screened.flat(), candidates);
}

/// All of them, with the bits of the layer's own product, NaN included.
template <class Fix, class Ctx>
bool falls_back(Fix& fixture, std::size_t candidates, Ctx& ctx) {
  constexpr int Out = static_cast<int>(Fix::rows);
  auto& head = fixture.head();
  const typename Fix::Screen screen(head, ctx);
  Tensor<float, Tokens, Dim<Out>> full({1}), screened({1});
  head.into(fixture.x, full, ctx);
  screened.fill(12345);
  screen.into(fixture.x, candidates, screened, ctx);
  return std::ranges::equal(full.flat(), screened.flat(), same_bits);
}

using Usual = Fixture<BF16, 256, 3000>;

/// What the screen makes of a row, computed in double: code · step, and what is left.
struct Screened {
  std::vector<double> weights, residuals;
  double step;

  explicit Screened(std::span<const float> row) {
    float largest = 0;
    for (const float w : row) largest = std::max(largest, std::abs(w));
    step = double{largest} * double{Int8::step};
    for (const float w : row) {
      weights.push_back(step * std::nearbyint(double{w} / step));
      residuals.push_back(double{w} - weights.back());
    }
  }
};

}  // namespace

TEST_CASE_TEMPLATE("candidates have the bits of the whole product, and the largest are among them", F, F32, F16, BF16) {
  CAPTURE(seed);
  Fixture<F, 256, 3000> fixture;
  const auto check = [&](auto&& ctx) {
    for (const std::size_t k : {1U, 2U, 3U, 7U, 20U, 50U}) {
      CAPTURE(k);
      const std::size_t count = computed(fixture, k, ctx);
      CHECK(count >= k);
      CHECK(count < fixture.rows / 4);
    }
    CHECK(falls_back(fixture, fixture.rows, ctx));
    CHECK(falls_back(fixture, std::numeric_limits<std::size_t>::max(), ctx));
    CHECK(falls_back(fixture, 0, ctx));
  };
  SUBCASE("one thread") { check(Context<>(1)); }
  SUBCASE("three threads") { check(Context<>(3)); }
  SUBCASE("integers do not concern it") { check(Context<cpu<arch::native, Int16>>(2)); }
  SUBCASE("any precision") { check(Context<cpu<arch::native, AnyPrecision>>(2)); }
  SUBCASE("reference") { check(Context<reference>(2)); }
}

TEST_CASE("sizes that are no multiples of anything") {
  for (std::uint32_t number = seed; number < seed + 20; ++number) {
    CAPTURE(number);
    Context<> ctx(2);
    Fixture<BF16, 37, 1001> narrow(number);
    CHECK(computed(narrow, 1, ctx) >= 1);
    Fixture<F32, 320, 777> wide(number);
    CHECK(computed(wide, 3, ctx) >= 3);
    Fixture<F32, 64, 5> small(number);
    CHECK(computed(small, 1, ctx) >= 1);
    Fixture<F32, 1, 1> one(number);
    CHECK(falls_back(one, 1, ctx));
  }
}

TEST_CASE("the number of threads changes nothing") {
  Usual fixture;
  auto& head = fixture.head();
  std::vector<float> first;
  for (const unsigned threads : {1U, 2U, 3U, 5U}) {
    Context<> ctx(threads);
    const ScreenedHead screen(head, ctx);
    Tensor<float, Tokens, Dim<3000>> y({1});
    screen.into(fixture.x, 5, y, ctx);
    if (first.empty()) first.assign(y.flat().begin(), y.flat().end());
    CHECK(std::ranges::equal(y.flat(), first, same_bits));
  }
}

TEST_CASE_TEMPLATE("every product lies in its interval", F, F32, F16, BF16) {
  std::vector<float> lower(1000), upper(1000);
  Context<> ctx(1);
  Context<reference> exact(1);
  for (std::uint32_t number = seed; number < seed + 10; ++number) {
    CAPTURE(number);
    Fixture<F, 256, 1000> fixture(number);
    // Rows of one number, of a few, of all magnitudes, of zeros.
    std::ranges::fill(fixture.row(0), 0.0F);
    std::ranges::fill(fixture.row(1), 0.25F);
    for (std::size_t i = 0; i < 256; ++i) fixture.row(2)[i] = i == number % 256 ? 1000.0F : fixture.row(2)[i] * 1e-3F;
    for (std::size_t i = 0; i < 256; ++i) fixture.row(3)[i] *= std::exp2(static_cast<float>(i % 24) - 12);
    if (number % 2 == 0) fixture.x.data()[number % 256] = 300;  // an outlier, as hidden states have them
    auto& head = fixture.head();
    const ScreenedHead screen(head, ctx);
    REQUIRE(screen.intervals(fixture.x, lower, upper, ctx));
    Tensor<float, Tokens, Dim<1000>> y({1}), in_double({1});
    head.into(fixture.x, y, ctx);
    head.into(fixture.x, in_double, exact);
    for (std::size_t r = 0; r < 1000; ++r) {
      CAPTURE(r);
      REQUIRE(lower[r] <= y.data()[r]);
      REQUIRE(y.data()[r] <= upper[r]);
      REQUIRE(lower[r] <= in_double.data()[r]);
      REQUIRE(in_double.data()[r] <= upper[r]);
    }
  }
}

TEST_CASE("the bound is reached: activations that are a row's residual, in each block") {
  Context<> ctx(1);
  Fixture<F32, 256, 64> fixture;
  auto& head = fixture.head();
  const ScreenedHead screen(head, ctx);
  std::vector<float> lower(64), upper(64);
  for (std::size_t r = 0; r < 64; ++r) {
    CAPTURE(r);
    const Screened of_row(fixture.row(r));
    for (const float sign : {1.0F, -1.0F}) {
      for (std::size_t i = 0; i < 256; ++i) {
        const float weight = static_cast<float>(1 + i / 64);  // blocks need not be alike
        fixture.x.data()[i] = sign * weight * static_cast<float>(of_row.residuals[i]) * 1e4F;
      }
      REQUIRE(screen.intervals(fixture.x, lower, upper, ctx));
      Tensor<float, Tokens, Dim<64>> y({1});
      head.into(fixture.x, y, ctx);
      const double middle = 0.5 * (double{lower[r]} + double{upper[r]}), radius = 0.5 * (double{upper[r]} - double{lower[r]});
      CHECK(std::abs(double{y.data()[r]} - middle) <= radius);
      CHECK(std::abs(double{y.data()[r]} - middle) >= 0.95 * radius);
    }
  }
}

TEST_CASE("the bound is reached: activations that are rounded, each by nearly half of a step") {
  Context<> ctx(1);
  Fixture<F32, 256, 64> fixture;
  for (float& value : fixture.values) value = value < 0 ? -0.5F : 0.5F;  // the screen stores these without error
  auto& head = fixture.head();
  const ScreenedHead screen(head, ctx);
  std::vector<float> lower(64), upper(64);
  for (std::size_t r = 0; r < 64; ++r) {
    CAPTURE(r);
    for (std::size_t i = 0; i < 256; ++i) fixture.x.data()[i] = i % 64 == 0 ? 8191.0F : fixture.row(r)[i] < 0 ? -0.49F : 0.49F;
    REQUIRE(screen.intervals(fixture.x, lower, upper, ctx));
    Tensor<float, Tokens, Dim<64>> y({1});
    head.into(fixture.x, y, ctx);
    const double middle = 0.5 * (double{lower[r]} + double{upper[r]}), radius = 0.5 * (double{upper[r]} - double{lower[r]});
    CHECK(std::abs(double{y.data()[r]} - middle) <= radius);
    if (ctx.instruction_set() != InstructionSet::generic) CHECK(std::abs(double{y.data()[r]} - middle) >= 0.85 * radius);
  }
}

TEST_CASE("a narrower bound would lose the largest") {
  // Row 7 is the largest; row 500 is only a little smaller, but the screen thinks more of it: by nearly the sum of both errors.
  Context<> ctx(1);
  Fixture<F32, 256, 1000> fixture;
  for (float& value : fixture.values) value *= 1e-3F;
  std::normal_distribution<float> normal;
  const auto draw = [&] {
    for (float& value : fixture.row(7)) value = normal(fixture.random);
    return Screened(fixture.row(7));
  };
  const auto product = [](const std::vector<double>& a, const std::vector<double>& b) {
    return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
  };
  Screened best = draw();
  while (product(best.weights, best.residuals) < product(best.residuals, best.residuals)) best = draw();
  const double error = product(best.residuals, best.residuals);
  for (std::size_t i = 0; i < 256; ++i) fixture.x.data()[i] = static_cast<float>(best.residuals[i]);
  double gain = 0;
  for (std::size_t i = 0; i < 256; ++i) {
    const double residual = best.residuals[i], more = best.step * std::abs(residual);
    double weight = best.weights[i];
    if (std::abs(weight) < 100 * best.step && gain + more < 1.99 * error) {
      gain += more;
      weight += residual < 0 ? -best.step : best.step;
    }
    fixture.row(500)[i] = static_cast<float>(weight - residual);
  }
  REQUIRE(gain > 1.8 * error);

  auto& head = fixture.head();
  const ScreenedHead screen(head, ctx);
  Tensor<float, Tokens, Dim<1000>> full({1}), screened({1});
  head.into(fixture.x, full, ctx);
  REQUIRE(std::ranges::max_element(full.flat()) - full.flat().begin() == 7);
  std::vector<float> lower(1000), upper(1000);
  REQUIRE(screen.intervals(fixture.x, lower, upper, ctx));
  const auto end = [&](std::size_t r, double width) {
    return 0.5 * (double{upper[r]} + double{lower[r]}) + 0.5 * width * (double{upper[r]} - double{lower[r]});
  };
  CHECK(end(7, 0.85) < end(500, -0.85));  // with 85 % of the bound row 7 would go
  CHECK(end(7, 1) >= end(500, -1));
  screen.into(fixture.x, 1, screened, ctx);
  CHECK(right_candidates(full.flat(), screened.flat(), 1) == 2);
}

TEST_CASE("ties: equal rows, and rows that differ in the last bit, are all there") {
  for (const std::size_t k : {1U, 2U, 5U, 9U}) {
    CAPTURE(k);
    Context<> ctx(2);
    Fixture<F32, 256, 3000> fixture;
    for (std::size_t i = 0; i < 256; ++i) {  // nearly along x: by far the largest
      const float weight = 0.02F * fixture.x.data()[i];
      for (const std::size_t r : {5U, 6U, 21U, 1000U, 1001U, 1002U, 1003U, 2999U}) fixture.row(r)[i] = weight;
    }
    for (const std::size_t r : {6U, 1001U}) {
      float& weight = fixture.row(r)[r % 256];
      weight = std::nextafter(weight, infinity);
    }
    CHECK(computed(fixture, k, ctx) >= std::max<std::size_t>(k, 8));
  }
}

TEST_CASE("logits that a division makes equal to the last candidate are there") {
  Context<> ctx(1);
  Fixture<F32, 64, 1000> fixture;
  std::ranges::fill(fixture.values, 0.0F);
  fixture.x.fill(0);
  fixture.x.data()[0] = 1;
  // One weight, which the screen stores nearly without error: intervals are as narrow as roundings.
  for (std::size_t r = 0; r < 1000; ++r) fixture.row(r)[0] = 1;
  fixture.row(3)[0] = 2;
  fixture.row(900)[0] = std::nextafter(2.0F, 0.0F);
  fixture.row(901)[0] = 2 - 0x1p-21F;
  auto& head = fixture.head();
  const ScreenedHead screen(head, ctx);
  Tensor<float, Tokens, Dim<1000>> y({1});
  screen.into(fixture.x, 1, y, ctx);
  CHECK(y.data()[3] == 2);
  CHECK(y.data()[900] == std::nextafter(2.0F, 0.0F));
  CHECK(y.data()[901] == 2 - 0x1p-21F);
  CHECK(y.data()[0] == not_a_candidate);
}

TEST_CASE("negative logits, rows of zeros, and magnitudes near the ends of the range") {
  Context<> ctx(2);
  Fixture<F32, 256, 3000> fixture;
  SUBCASE("all negative") {
    for (std::size_t r = 0; r < 3000; ++r) {
      for (std::size_t i = 0; i < 256; ++i) fixture.row(r)[i] -= 0.2F * fixture.x.data()[i];
    }
    CHECK(computed(fixture, 1, ctx) >= 1);
  }
  SUBCASE("rows of zeros, and x of zeros") {
    for (std::size_t r = 0; r < 3000; r += 2) std::ranges::fill(fixture.row(r), 0.0F);
    CHECK(computed(fixture, 10, ctx) >= 10);
    fixture.x.fill(0);
    CHECK(falls_back(fixture, 10, ctx));  // all are equal
    std::ranges::fill(fixture.values, 0.0F);
    CHECK(falls_back(fixture, 1, ctx));
  }
  SUBCASE("scaled weights and activations") {
    for (const int of_w : {-140, -100, -60, 0, 60, 100, 120}) {
      for (const int of_x : {-140, -60, 0, 60, 120}) {
        CAPTURE(of_w);
        CAPTURE(of_x);
        Fixture<F32, 256, 300> scaled;
        for (float& value : scaled.values) value = std::ldexp(value, of_w);
        for (float& value : scaled.x.flat()) value = std::ldexp(value, of_x);
        CHECK((falls_back(scaled, 3, ctx) || computed(scaled, 3, ctx) >= 3));
        if (std::abs(of_w) <= 60 && std::abs(of_x) <= 60 && of_w + of_x > -90 && of_w + of_x < 90) {
          const std::size_t count = computed(scaled, 3, ctx);
          CHECK(count >= 3);
          CHECK(count < 75);
        }
      }
    }
  }
  SUBCASE("activations whose products with codes leave the range, though those with weights do not") {
    Fixture<F32, 256, 3000> large;
    std::ranges::fill(large.values, 0.0F);
    large.x.fill(0x1p119F);
    std::ranges::fill(large.row(8), 0x1p-100F);  // the screen's sum is infinite
    large.row(2000)[0] = 0x1p-90F;               // the largest
    CHECK(falls_back(large, 1, ctx));
  }
  SUBCASE("rows of very different magnitudes") {
    for (std::size_t r = 0; r < 3000; ++r) {
      for (float& value : fixture.row(r)) value = std::ldexp(value, static_cast<int>(r % 97) - 70);
    }
    CHECK(computed(fixture, 3, ctx) >= 3);
  }
}

TEST_CASE("what is not finite falls back to the layer's own product") {
  Context<> ctx(2);
  for (const float broken : {not_a_number, infinity, -infinity, std::numeric_limits<float>::max()}) {
    CAPTURE(broken);
    Fixture<F32, 256, 3000> weights, activations, both;
    weights.row(2999)[255] = broken;
    CHECK(falls_back(weights, 1, ctx));
    activations.x.data()[77] = broken;
    CHECK(falls_back(activations, 1, ctx));
    both.row(0)[0] = both.x.data()[0] = broken;
    CHECK(falls_back(both, 1, ctx));
  }
}

TEST_CASE("no weights, and formats that have no screen") {
  Context<> ctx(1);
  const Linear<BF16, 64, 100> empty{};
  CHECK(ScreenedHead(empty, ctx).bytes() == 0);
  Linear<AnyOf<BF16, NF4>, 64, 100> any;
  std::vector<std::uint8_t> codes(64 * 100 / 2);
  std::minstd_rand random(seed);
  for (std::uint8_t& code : codes) code = static_cast<std::uint8_t>(random() >> 8U);
  const std::vector<float> absmax(100, 0.5F);
  any.weight.weights.stored = Weights<NF4>{.codes = codes.data(), .rows = 100, .columns = 64, .absmax = absmax.data()};
  const ScreenedHead screen(any, ctx);
  CHECK(screen.bytes() == 0);
  Fixture<BF16, 64, 100> fixture;
  Tensor<float, Tokens, Dim<100>> full({1}), y({1});
  any.into(fixture.x, full, ctx);
  screen.into(fixture.x, 1, y, ctx);
  CHECK(std::ranges::equal(full.flat(), y.flat(), same_bits));
}

TEST_CASE("with an adapter that is on, outputs are those of the changed layer") {
  Context<> ctx(1);
  Usual fixture;
  Linear<LoRA<AnyOf<BF16, NF4>>, 256, 3000> head;
  head.weight.weights.stored = fixture.head().weight.weights;
  const ScreenedHead screen(head, ctx);
  Tensor<float, Tokens, Dim<3000>> full({1}), y({1});
  const auto count = [&] {
    head.into(fixture.x, full, ctx);
    screen.into(fixture.x, 1, y, ctx);
    return right_candidates(full.flat(), y.flat(), 1);
  };
  const std::size_t before = count();
  CHECK(before >= 1);
  CHECK(before < 750);
  const std::vector<float> a(256, 0.1F), b(3000, 1);
  AdapterState state;
  LowRankBranch branch{.change = {.a = {a.data(), 1, 256}, .b = {b.data(), 3000, 1}}, .adapter = &state};
  head.branches.attach(branch);
  CHECK(count() == 3000);
  state.on = false;
  CHECK(count() == before);
}

TEST_CASE("several rows of x, each with candidates of its own") {
  Context<> ctx(2);
  Usual fixture;
  auto& head = fixture.head();
  const ScreenedHead screen(head, ctx);
  Tensor<float, Tokens, Dim<256>> x({3});
  std::normal_distribution<float> normal;
  for (float& value : x.flat()) value = normal(fixture.random);
  x[1][0] = not_a_number;
  Tensor<float, Tokens, Dim<3000>> full({3}), y({3});
  head.into(x, full, ctx);
  screen.into(x, 4, y, ctx);
  CHECK(right_candidates(full[0], y[0], 4) >= 4);
  CHECK(std::ranges::equal(full[1], y[1], same_bits));
  CHECK(right_candidates(full[2], y[2], 4) >= 4);
}

TEST_CASE("a screen takes the memory that is said") {
  Context<> ctx(2);
  Usual fixture;
  CHECK(ScreenedHead(fixture.head(), ctx).bytes() == 3000 * (256 + 2 * 4 + 8));
}
