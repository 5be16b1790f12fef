// SPDX-License-Identifier: MIT
// error: Linear<Format, In, Out>: the last axis of x must have length In
// values: 64 == 32
#include <mllama/layers/cross_attention.hpp>

#ifdef MLLAMA_WRONG
constexpr int width = 32;
#else
constexpr int width = 64;
#endif

using Attention = mllama::CrossAttention<mllama::BF16, 64, 8, 2>;

void use(const Attention& attention, const mllama::Tensor<float, mllama::Tokens, mllama::Dim<width>>& x,
         const mllama::Residual<mllama::Tokens, 64>& stream) {
  mllama::Context ctx(1);
  attention.add(x, {}, stream, ctx);
}
