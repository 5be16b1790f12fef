// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <string_view>

#include <mllama/core/context.hpp>

/// Activation functions. Each is a tag with the names that configuration files and PyTorch's print-outs use.

namespace mllama {

/// `x · ½ · (1 + erf(x/√2))`, the exact one.
struct GELU {
  static constexpr std::string_view key = "gelu", class_name = "GELUActivation";
  static double value(double x) { return x * 0.5 * (1 + std::erf(x * 0.70710678118654752440)); }
};
/// `½x(1 + tanh(√(2/π)(x + 0.044715x³)))`; also called `gelu_new`.
struct TanhGELU {
  static constexpr std::string_view key = "gelu_pytorch_tanh", class_name = "GELUTanh";
  static double value(double x) { return 0.5 * x * (1 + std::tanh(0.79788456080286535588 * (x + 0.044715 * x * x * x))); }
};
/// `x · sigmoid(1.702x)`
struct QuickGELU {
  static constexpr std::string_view key = "quick_gelu", class_name = "QuickGELUActivation";
  static double value(double x) { return x / (1 + std::exp(-1.702 * x)); }
};
/// `max(x, 0)`
struct ReLU {
  static constexpr std::string_view key = "relu", class_name = "ReLU";
  static double value(double x) { return x > 0 ? x : 0; }
};
/// `x · sigmoid(x)`, also called swish.
struct SiLU {
  static constexpr std::string_view key = "silu", class_name = "SiLU";
  static double value(double x) { return x / (1 + std::exp(-x)); }
};

template <class A>
concept ActivationFunction = requires(double x) {
  { A::value(x) } -> std::same_as<double>;
  { A::key } -> std::convertible_to<std::string_view>;
};

}  // namespace mllama

#include <mllama/kernels/reference/activation.hpp>
#include <mllama/kernels/simd/activation.hpp>

namespace mllama::kernels {

/// `x = act(x)`, element by element.
/// Shapes:  x (rows, n)
template <ActivationFunction A, class Ctx>
void activate(Ctx& ctx, Matrix<float> x) {
  ctx.parallel(x.rows * x.width, 4096, [&](std::size_t begin, std::size_t end, unsigned) {
    activate_body(typename Ctx::backend{}, A{}, x.data + begin, end - begin);
  });
}

/// `gate = act(gate) ∘ up`, element by element: the middle of a gated MLP.
/// Shapes:  gate, up (rows, n)
/// Source:  Shazeer 2020 (arXiv:2002.05202)
template <ActivationFunction A, class Ctx>
void activate_and_multiply(Ctx& ctx, Matrix<float> gate, Matrix<const float> up) {
  ctx.parallel(gate.rows * gate.width, 4096, [&](std::size_t begin, std::size_t end, unsigned) {
    activate_and_multiply_body(typename Ctx::backend{}, A{}, gate.data + begin, up.data + begin, end - begin);
  });
}

}  // namespace mllama::kernels
