// SPDX-License-Identifier: MIT
// error: Dim<N>: a length is positive
#include <mllama/core/axes.hpp>

#ifdef MLLAMA_WRONG
constexpr int length = 0;
#else
constexpr int length = 1;
#endif

static_assert(mllama::Dim<length>::size == length);
