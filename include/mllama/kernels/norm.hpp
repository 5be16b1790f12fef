// SPDX-License-Identifier: MIT
#pragma once

#include <mllama/kernels/reference/norm.hpp>
#include <mllama/kernels/simd/norm.hpp>

/// Normalisation of rows.

namespace mllama::kernels {

/// Root-mean-square normalisation: `y = x · rsqrt(mean(x²) + eps) · weight`, per row. x and y may be the same.
/// Shapes:  x, y (rows, n);  weight (n).   Units: eps is added to the mean square.
/// Source:  Zhang, Sennrich 2019 (arXiv:1910.07467)
template <class Ctx>
void rms_norm(Ctx& ctx, Matrix<const float> x, const float* weight, float eps, Matrix<float> y) {
  ctx.parallel(x.rows, 1, [&](std::size_t begin, std::size_t end, unsigned) {
    for (std::size_t r = begin; r < end; ++r) rms_norm_row(typename Ctx::backend{}, x[r], x.width, weight, eps, y[r]);
  });
}

/// Layer normalisation: `y = (x − mean) / sqrt(var + eps) · weight + bias`, per row, with the biased variance. x and y may be
/// the same.
/// Shapes:  x, y (rows, n);  weight, bias (n).   Units: eps is added to the variance.
/// Source:  Ba et al. 2016 (arXiv:1607.06450); torch.nn.LayerNorm
template <class Ctx>
void layer_norm(Ctx& ctx, Matrix<const float> x, const float* weight, const float* bias, float eps, Matrix<float> y) {
  ctx.parallel(x.rows, 1, [&](std::size_t begin, std::size_t end, unsigned) {
    for (std::size_t r = begin; r < end; ++r) layer_norm_row(typename Ctx::backend{}, x[r], x.width, weight, bias, eps, y[r]);
  });
}

}  // namespace mllama::kernels
