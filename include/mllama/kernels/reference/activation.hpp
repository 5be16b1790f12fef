// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>

#include <mllama/core/context.hpp>

namespace mllama::kernels {

template <class A>
void activate_body(reference, A, float* x, std::size_t n) {
  for (std::size_t i = 0; i < n; ++i) x[i] = static_cast<float>(A::value(x[i]));
}

template <class A>
void activate_and_multiply_body(reference, A, float* gate, const float* up, std::size_t n) {
  for (std::size_t i = 0; i < n; ++i) gate[i] = static_cast<float>(A::value(gate[i])) * up[i];
}

}  // namespace mllama::kernels
