// SPDX-License-Identifier: MIT
// error: ImageTokens
#include <mllama/layers/cross_attention.hpp>

#ifdef MLLAMA_WRONG
using Row = mllama::Tokens;
#else
using Row = mllama::ImageTokens;
#endif

using Attention = mllama::CrossAttention<mllama::BF16, 64, 8, 2>;
using Keys = mllama::View<float, mllama::ImageTokens, mllama::Dim<Attention::kv_width>>;

void use(const Attention& attention, const mllama::Tensor<float, Row, mllama::Dim<64>>& states, Keys keys, Keys values) {
  mllama::Context ctx(1);
  attention.encode(states, keys, values, ctx);
}
