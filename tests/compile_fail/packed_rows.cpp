// SPDX-License-Identifier: MIT
// error: Linear<Packed<F>, In, Out>: Out must be a multiple of the rows that Packed<F> keeps together
#include <mllama/layers/linear.hpp>

#ifdef MLLAMA_WRONG
constexpr int rows = 60;
#else
constexpr int rows = 64;
#endif

using Matrix = mllama::Linear<mllama::Packed<mllama::NF4>, 64, rows>;
static_assert(Matrix::outputs == rows);
