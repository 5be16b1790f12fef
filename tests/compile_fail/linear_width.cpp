// SPDX-License-Identifier: MIT
// error: Linear<Format, In, Out>: the last axis of x must have length In
// values: 64 == 32
#include <mllama/layers/linear.hpp>

#ifdef MLLAMA_WRONG
constexpr int width = 32;
#else
constexpr int width = 64;
#endif

void use(const mllama::Linear<mllama::NF4, 64, 16>& linear, const mllama::Tensor<float, mllama::Tokens, mllama::Dim<width>>& x) {
  mllama::Context ctx(1);
  static_cast<void>(linear(x, ctx));
}
