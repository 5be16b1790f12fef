// SPDX-License-Identifier: MIT
// error: SelfAttention<Format, N, HeadCount, KvHeadCount>: HeadCount must be a multiple of KvHeadCount
#include <mllama/layers/attention.hpp>

#ifdef MLLAMA_WRONG
constexpr int kv_heads = 3;
#else
constexpr int kv_heads = 2;
#endif

using Attention = mllama::SelfAttention<mllama::NF4, 64, 8, kv_heads>;
static_assert(Attention::head_dim > 0);
