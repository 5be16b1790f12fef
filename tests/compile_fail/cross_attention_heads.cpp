// SPDX-License-Identifier: MIT
// error: CrossAttention<Format, N, HeadCount, KvHeadCount>: N must be a multiple of HeadCount
#include <mllama/layers/cross_attention.hpp>

#ifdef MLLAMA_WRONG
constexpr int heads = 6;
#else
constexpr int heads = 8;
#endif

static_assert(mllama::CrossAttention<mllama::BF16, 64, heads, 2>::head_dim > 0);
