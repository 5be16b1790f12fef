// SPDX-License-Identifier: MIT
#pragma once

#include <mllama/kernels/isa/attention_task.hpp>
#include <mllama/kernels/x86/amx.hpp>
#include <mllama/kernels/x86/avx2.hpp>
#include <mllama/kernels/x86/avx512.hpp>

/// Attention's bodies for x86. Dot products of integers make no difference to it.

#if MLLAMA_HAS_X86_BODIES
#define MLLAMA_TARGET MLLAMA_AVX2
namespace mllama::kernels::isa::avx2 {
#include <mllama/kernels/isa/attention.inc>
}  // namespace mllama::kernels::isa::avx2
#undef MLLAMA_TARGET

#define MLLAMA_TARGET MLLAMA_AVX512
namespace mllama::kernels::isa::avx512 {
#include <mllama/kernels/isa/attention.inc>
}  // namespace mllama::kernels::isa::avx512
#undef MLLAMA_TARGET

#define MLLAMA_TARGET MLLAMA_AVX512_BF16
namespace mllama::kernels::isa::avx512_amx {
using avx512::attention_body, avx512::difference, avx512::gather_rows;
#include <mllama/kernels/isa/attention_matrices.inc>
}  // namespace mllama::kernels::isa::avx512_amx
#undef MLLAMA_TARGET
#endif
