// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <string>

#include <mllama/core/context.hpp>
#include <mllama/kernels/activation.hpp>
#include <mllama/layers/linear.hpp>

namespace mllama {

/// An activation function as a module, so that the printed tree shows it.
template <ActivationFunction A>
struct Activation {
  static constexpr void visit(auto&, auto&&) {}
  static std::string repr(const auto&) { return concat(A::class_name, "()"); }
};

namespace detail {
/// Rows that an MLP takes at a time: bounds its inner tensor (four tiles of 560 pixels would need 132 MB at once), and is enough
/// to make up for decoding the weights again.
inline constexpr std::size_t mlp_rows = 1024;

template <class X, class Body>
void for_row_panels(const X& x, Body&& body) {
  for (std::size_t first = 0; first < x.rows(); first += mlp_rows) body(first, std::min(mlp_rows, x.rows() - first));
}
}  // namespace detail

/// Two-layer perceptron with biases: `fc2(act(fc1(x)))`, added to a stream.
/// Shapes:  x (rows, N), residual (rows, N).
/// Source:  keys: *.fc1.weight, *.fc1.bias, *.fc2.weight, *.fc2.bias
template <WeightFormat Format, int N, int Inner, ActivationFunction A>
struct MLP {
  Activation<A> activation_fn{};
  Linear<Format, N, Inner, true> fc1{};
  Linear<Format, Inner, N, true> fc2{};

  static constexpr void visit(auto& self, auto&& member) {
    member("activation_fn", self.activation_fn);
    member("fc1", self.fc1);
    member("fc2", self.fc2);
  }

  template <class X, class Ctx>
  void add(const X& x, const Residual<row_axis<X>, N>& to, Ctx& ctx) const {
    detail::for_row_panels(x, [&](std::size_t first, std::size_t count) {
      auto inner = fc1(x.view().slice(first, count), ctx);
      kernels::activate<A>(ctx, inner);
      fc2.add(inner, to.slice(first, count), ctx);
    });
  }
};

/// Gated perceptron without biases: `down(act(gate(x)) ∘ up(x))`, added to a stream.
/// Shapes:  x (rows, N), residual (rows, N).
/// Source:  Shazeer 2020 (arXiv:2002.05202);  keys: *.gate_proj.weight, *.up_proj.weight, *.down_proj.weight
template <WeightFormat Format, int N, int Inner, ActivationFunction A = SiLU>
struct GatedMLP {
  static constexpr int width = N;
  Linear<Format, N, Inner> gate_proj{}, up_proj{};
  Linear<Format, Inner, N> down_proj{};
  Activation<A> act_fn{};

  static constexpr void visit(auto& self, auto&& member) {
    member("gate_proj", self.gate_proj);
    member("up_proj", self.up_proj);
    member("down_proj", self.down_proj);
    member("act_fn", self.act_fn);
  }

  template <class X, class Ctx>
  void add(const X& x, const Residual<row_axis<X>, N>& to, Ctx& ctx) const {
    detail::for_row_panels(x, [&](std::size_t first, std::size_t count) {
      const auto rows = x.view().slice(first, count);
      auto [gate, up] = project(rows, ctx, gate_proj, up_proj);
      kernels::activate_and_multiply<A>(ctx, gate, up);
      down_proj.add(gate, to.slice(first, count), ctx);
    });
  }
};

}  // namespace mllama
