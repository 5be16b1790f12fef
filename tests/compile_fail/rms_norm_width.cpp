// SPDX-License-Identifier: MIT
// error: RMSNorm<N>: the last axis of x must have length N
// values: 64 == 32
#include <mllama/layers/norm.hpp>

#ifdef MLLAMA_WRONG
constexpr int width = 32;
#else
constexpr int width = 64;
#endif

void use(const mllama::RMSNorm<64>& norm, const mllama::Tensor<float, mllama::Tokens, mllama::Dim<width>>& x) {
  mllama::Context ctx(1);
  static_cast<void>(norm(x, ctx));
}
