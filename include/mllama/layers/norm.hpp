// SPDX-License-Identifier: MIT
#pragma once

#include <string>
#include <string_view>

#include <mllama/core/context.hpp>
#include <mllama/core/visit.hpp>
#include <mllama/kernels/norm.hpp>
#include <mllama/layers/residual.hpp>

namespace mllama {

/// Root-mean-square normalisation of each row, scaled by a learned weight.
/// Shapes:  x (rows, N) -> (rows, N);  weight (N).   Units: eps is added to the mean square, dimensionless.
/// Errors:  compile time if x has another N.
/// Source:  Zhang, Sennrich 2019 (arXiv:1910.07467);  torch.nn.RMSNorm(N, eps);  key: *.weight
template <int N>
struct RMSNorm {
  static constexpr std::string_view class_name = "RMSNorm";
  Vector<N> weight{};
  double eps = 1e-5;

  static constexpr void visit(auto& self, auto&& member) { member("weight", self.weight); }
  static std::string repr(const auto& self) { return concat(self.class_name, "((", N, ",), eps=", self.eps, ")"); }

  template <class X, class Ctx>
  [[nodiscard]] Tensor<float, row_axis<X>, Dim<N>> operator()(const X& x, Ctx& ctx) const {
    constexpr int features = feature_count<X>;
    static_assert(N == features, "RMSNorm<N>: the last axis of x must have length N");
    auto y = ctx.template tensor<float, row_axis<X>, Dim<N>>({x.rows()});
    kernels::rms_norm(ctx, x, weight.data(), static_cast<float>(eps), y);
    return y;
  }

  /// Normalises each of the `x.width / N` heads of every row in place.
  template <class Ctx>
  void each_head(Matrix<float> x, Ctx& ctx) const {
    const Matrix<float> heads{x.data, x.rows * x.width / N, N, N};
    kernels::rms_norm(ctx, heads, weight.data(), static_cast<float>(eps), heads);
  }
};

/// Normalisation of each row to mean 0 and variance 1, then scaled and shifted.
/// Shapes:  x (rows, N) -> (rows, N);  weight, bias (N).   Units: eps is added to the variance.
/// Errors:  compile time if x has another N.
/// Source:  Ba et al. 2016 (arXiv:1607.06450);  torch.nn.LayerNorm(N, eps);  keys: *.weight, *.bias
template <int N>
struct LayerNorm {
  Vector<N> weight{}, bias{};
  double eps = 1e-5;

  static constexpr void visit(auto& self, auto&& member) {
    member("weight", self.weight);
    member("bias", self.bias);
  }
  static std::string repr(const auto& self) { return concat("LayerNorm((", N, ",), eps=", self.eps, ", elementwise_affine=True)"); }

  template <class X, class Ctx>
  [[nodiscard]] Tensor<float, row_axis<X>, Dim<N>> operator()(const X& x, Ctx& ctx) const {
    auto y = ctx.template tensor<float, row_axis<X>, Dim<N>>({x.rows()});
    normalise(x, y, ctx);
    return y;
  }
  template <class X, class Ctx>
  void in_place(X& x, Ctx& ctx) const {
    normalise(x, x, ctx);
  }

 private:
  template <class X, class Ctx>
  void normalise(const X& x, Matrix<float> y, Ctx& ctx) const {
    constexpr int features = feature_count<X>;
    static_assert(N == features, "LayerNorm<N>: the last axis of x must have length N");
    kernels::layer_norm(ctx, x, weight.data(), bias.data(), static_cast<float>(eps), y);
  }
};

}  // namespace mllama
