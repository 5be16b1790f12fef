#include <array>
#include <cmath>
#include <cstdio>
#include <mllama/layers/attention.hpp>
#include <mllama/layers/rope.hpp>
#include <mllama/models/mllama/random.hpp>

using namespace mllama;

int main() {
  using Attention = SelfAttention<F32, 16, 4, 2>;  // width 16, four heads, which share two heads of keys and values
  const auto random = random_weights<Attention>();
  Context ctx;
  Tensor<float, Tokens, Dim<16>> x({3}), once({3}), step({3});
  for (std::size_t i = 0; i < x.size(); ++i) x.data()[i] = static_cast<float>(i % 7) - 3;
  once.fill(0);
  step.fill(0);

  // Rows [first, first + count) of the sequence; `add` adds to a residual stream.
  const auto attend = [&](kernels::KeptKeys& keys, kernels::KeptKeys& values, std::size_t first, std::size_t count, auto& out) {
    const std::array<std::int32_t, 3> positions{0, 1, 2};
    const auto angles = RotaryEmbedding<Attention::head_dim>{}(std::span(positions).subspan(first, count), ctx);
    const CachedRows rows{.count = count, .past = first, .keys = &keys, .values = &values};
    random.model->add(x.view().slice(first, count), angles, {&rows, 1}, {out.view().slice(first, count)}, ctx);
  };
  constexpr kernels::KeyShape shape{2, Attention::head_dim};
  kernels::KeptKeys keys(KeyFormat::f32, shape, 3), values(KeyFormat::f32, shape, 3);
  attend(keys, values, 0, 3, once);
  for (std::size_t row = 0; row < 3; ++row) attend(keys, values, row, 1, step);

  float most = 0;
  for (std::size_t i = 0; i < x.size(); ++i) most = std::max(most, std::abs(once.data()[i] - step.data()[i]));
  std::printf("all at once and row by row with a cache: %s\n", most < 1e-5F ? "the same" : "different");
}
