// SPDX-License-Identifier: MIT
// error: RotaryEmbedding<HeadDim>: a head has an even number of elements
#include <mllama/layers/rope.hpp>

#ifdef MLLAMA_WRONG
constexpr int head = 7;
#else
constexpr int head = 8;
#endif

static_assert(sizeof(mllama::RotaryEmbedding<head>) > 0);
