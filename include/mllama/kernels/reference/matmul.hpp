// SPDX-License-Identifier: MIT
#pragma once

#include <span>

#include <mllama/kernels/matmul.hpp>

namespace mllama::kernels {

/// The oracle: weights decoded row by row, sums in double.
template <class Ctx, class F>
void matmul_body(reference, Ctx& ctx, Matrix<const float> x, const Weights<F>& w, const Epilogue& epilogue, Matrix<float> y) {
  auto decoded = ctx.template tensor<float, Rows, Rows>({ctx.threads().size(), w.columns});
  ctx.parallel(w.rows, 1, [&](std::size_t begin, std::size_t end, unsigned worker) {
    const std::span<float> row = decoded.view()[worker];
    for (std::size_t out = begin; out < end; ++out) {
      w.decode(out * w.columns, row);
      for (std::size_t r = 0; r < x.rows; ++r) {
        double sum = 0;
        for (std::size_t i = 0; i < w.columns; ++i) sum += double{x[r][i]} * double{row[i]};
        epilogue.store(static_cast<float>(sum), r, out, y[r][out]);
      }
    }
  });
}

/// Nothing is gained.
template <class Ctx, class F>
bool multiply_together(reference, Ctx&, Matrix<const float>, std::span<const Product<F>>) {
  return false;
}

}  // namespace mllama::kernels
