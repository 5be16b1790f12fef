// SPDX-License-Identifier: MIT
// error: SelfAttention<Format, N, HeadCount, KvHeadCount>: N must be a multiple of HeadCount
#include <mllama/layers/attention.hpp>

#ifdef MLLAMA_WRONG
constexpr int heads = 6;
#else
constexpr int heads = 8;
#endif

using Attention = mllama::SelfAttention<mllama::NF4, 64, heads, 2>;
static_assert(Attention::head_dim > 0);
