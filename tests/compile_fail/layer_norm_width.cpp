// SPDX-License-Identifier: MIT
// error: LayerNorm<N>: the last axis of x must have length N
// values: 64 == 32
#include <mllama/layers/norm.hpp>

#ifdef MLLAMA_WRONG
constexpr int width = 32;
#else
constexpr int width = 64;
#endif

void use(const mllama::LayerNorm<64>& norm, mllama::Tensor<float, mllama::ImagePositions, mllama::Dim<width>>& x) {
  mllama::Context ctx(1);
  norm.in_place(x, ctx);
}
