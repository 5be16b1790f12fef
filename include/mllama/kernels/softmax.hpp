// SPDX-License-Identifier: MIT
#pragma once

#include <mllama/kernels/reference/softmax.hpp>
#include <mllama/kernels/simd/softmax.hpp>

namespace mllama::kernels {

/// Softmax of each row in place, with the maximum subtracted first. −inf entries get 0.
/// Shapes:  x (rows, n), n ≥ 1
template <class Ctx>
void softmax(Ctx& ctx, Matrix<float> x) {
  ctx.parallel(x.rows, 1, [&](std::size_t begin, std::size_t end, unsigned) {
    for (std::size_t r = begin; r < end; ++r) softmax_row(typename Ctx::backend{}, x[r], x.width);
  });
}

}  // namespace mllama::kernels
