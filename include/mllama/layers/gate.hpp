// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>

#include <mllama/core/visit.hpp>

namespace mllama {

/// A learned scalar through which a branch enters the stream: its hyperbolic tangent is the factor, so that 0 closes the branch.
/// Source:  Alayrac et al. 2022 (arXiv:2204.14198);  the parameter itself, shape [1]
struct TanhGate : Vector<1> {
  [[nodiscard]] float operator()() const { return std::tanh(*data()); }
};

namespace detail {
template <>
inline constexpr bool is_parameter<TanhGate> = true;
}  // namespace detail

}  // namespace mllama
