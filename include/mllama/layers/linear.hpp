// SPDX-License-Identifier: MIT
#pragma once

#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>

#include <mllama/core/context.hpp>
#include <mllama/core/visit.hpp>
#include <mllama/kernels/matmul.hpp>
#include <mllama/layers/residual.hpp>

namespace mllama {

namespace detail {
struct NoBias {};

/// Rows that a format needs to be complete.
template <class F>
inline constexpr int rows_together = 1;
template <PackedFormat F>
inline constexpr int rows_together<F> = static_cast<int>(F::group);

/// PyTorch's class of a linear whose weights have this format.
template <class F>
inline constexpr std::string_view linear_class = BlockFormat<F> ? "Linear4bit"
                                                 : RowFormat<F> ? "Linear8bitLt"
                                                                : "Linear";
}  // namespace detail

/// Linear layer `x · Wᵀ + b` with weights in `Format`, which may be a choice that each tensor of the file makes.
/// Shapes:  x (rows, In) -> (rows, Out);  weight (Out, In);  bias (Out).
/// Errors:  compile time if x has another number of features.
/// Source:  torch.nn.Linear, bitsandbytes.nn.Linear4bit, Linear8bitLt;  keys: *.weight, *.bias
template <WeightFormat Format, int In, int Out, bool Bias = false>
struct Linear {
  static constexpr int inputs = In, outputs = Out;
  static_assert(Out % detail::rows_together<Format> == 0,
                "Linear<Packed<F>, In, Out>: Out must be a multiple of the rows that Packed<F> keeps together");
  Parameter<Format, Out, In> weight{};
  [[no_unique_address]] std::conditional_t<Bias, Vector<Out>, detail::NoBias> bias{};

  static constexpr void visit(auto& self, auto&& member) {
    member("weight", self.weight);
    if constexpr (Bias) member("bias", self.bias);
  }
  static std::string repr(const auto& self) {
    const std::string_view name = with_format(self.weight.weights, [](const auto& weights) {
      return weights.loaded() ? detail::linear_class<typename std::remove_cvref_t<decltype(weights)>::format>
                              : detail::linear_class<nominal_format<Format>>;
    });
    return concat(name, "(in_features=", In, ", out_features=", Out, ", bias=", Bias ? "True" : "False", ")");
  }

  /// The product as a new tensor.
  template <class X, class Ctx>
  [[nodiscard]] Tensor<float, row_axis<X>, Dim<Out>> operator()(const X& x, Ctx& ctx) const {
    auto y = ctx.template tensor<float, row_axis<X>, Dim<Out>>({x.rows()});
    into(x, y, ctx);
    return y;
  }

  /// The product in memory of the caller's: y (rows, Out).
  template <class X, class Ctx>
  void into(const X& x, View<float, row_axis<X>, Dim<Out>> y, Ctx& ctx) const {
    product(x, {}, y, ctx);
  }

  /// The product in memory of the caller's, as one of several: see project.
  template <RunTimeAxis Row>
  [[nodiscard]] kernels::ProductWith<Format> product_in(View<float, Row, Dim<Out>> y) const {
    kernels::Epilogue epilogue;
    if constexpr (Bias) epilogue.bias = bias.data();
    return {weight.weights, epilogue, y};
  }
  /// What is left to do with it: nothing.
  template <class X, class Ctx>
  void finish(const X&, View<float, row_axis<X>, Dim<Out>>, Ctx&) const {}

  /// The product added to a stream.
  template <class X, class Ctx>
  void add(const X& x, const Residual<row_axis<X>, Out>& to, Ctx& ctx) const {
    product(x, to.epilogue(), to.y, ctx);
  }

 private:
  template <class X, class Ctx>
  void product(const X& x, kernels::Epilogue epilogue, Matrix<float> y, Ctx& ctx) const {
    constexpr int N = feature_count<X>;
    static_assert(In == N, "Linear<Format, In, Out>: the last axis of x must have length In");
    if constexpr (Bias) epilogue.bias = bias.data();
    kernels::matmul(ctx, x, weight.weights, epilogue, y);
  }
};

/// A linear, and the memory for its product.
template <class L, RunTimeAxis Row>
struct Projection {
  const L& linear;
  View<float, Row, Dim<L::outputs>> y;
};
template <class L, RunTimeAxis Row, int Out>
Projection(const L&, View<float, Row, Dim<Out>>) -> Projection<L, Row>;

/// What several linears make of the same x, bit for bit as one by one, and sooner where their weights are stored alike: x is prepared
/// once. `project_into(x, ctx, Projection{k_proj, keys}, Projection{v_proj, values})`
template <class X, class Ctx, class... Linears>
void project_into(const X& x, Ctx& ctx, const Projection<Linears, row_axis<X>>&... to) {
  static_assert(((Linears::inputs == feature_count<X>)&&...), "project: the last axis of x must have the linears' length In");
  kernels::matmul(ctx, x, to.linear.product_in(to.y)...);
  (to.linear.finish(x, to.y, ctx), ...);
}

/// The same as new tensors: `auto [q, k, v] = project(x, ctx, q_proj, k_proj, v_proj)`.
/// Shapes:  x (rows, In) -> a tuple of (rows, Out).
template <class X, class Ctx, class... Linears>
[[nodiscard]] auto project(const X& x, Ctx& ctx, const Linears&... linears) {
  std::tuple<Tensor<float, row_axis<X>, Dim<Linears::outputs>>...> all{
      ctx.template tensor<float, row_axis<X>, Dim<Linears::outputs>>({x.rows()})...};
  std::apply([&](auto&... y) { project_into(x, ctx, Projection<Linears, row_axis<X>>{linears, y.view()}...); }, all);
  return all;
}

}  // namespace mllama
