// SPDX-License-Identifier: MIT
// error: cpu<Arch, Compute>: matrix products are computed in F32, Int16, BF16, Int8, LLMInt8 or AnyPrecision
#include <mllama/kernels/matmul.hpp>

#ifdef MLLAMA_WRONG
using Compute = mllama::NF4;
#else
using Compute = mllama::Int16;
#endif

void use(mllama::Context<mllama::cpu<mllama::arch::native, Compute>>& ctx, const mllama::Weights<mllama::BF16>& weights,
         mllama::Matrix<float> x) {
  mllama::kernels::matmul(ctx, x, weights, {}, x);
}
