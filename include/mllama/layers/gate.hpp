// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <string_view>

#include <mllama/core/context.hpp>
#include <mllama/core/visit.hpp>

namespace mllama {

/// A learned scalar through which a branch enters the stream: its hyperbolic tangent is the factor, so that 0 closes the branch.
/// Source:  Alayrac et al. 2022 (arXiv:2204.14198);  the parameter itself, shape [1]
struct TanhGate : Vector<1> {
  [[nodiscard]] float operator()() const { return std::tanh(*data()); }

  /// The factor, after an observer has seen it.
  template <class Ctx>
  [[nodiscard]] float shown(std::string_view name, Ctx& ctx) const {
    const float factor = (*this)();
    ctx.tap({name}, View<const float, Dim<1>>(&factor));
    return factor;
  }
};

namespace detail {
template <>
inline constexpr bool is_parameter<TanhGate> = true;
}  // namespace detail

}  // namespace mllama
