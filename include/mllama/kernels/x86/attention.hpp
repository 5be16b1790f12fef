// SPDX-License-Identifier: MIT
#pragma once

#include <mllama/kernels/isa/attention_task.hpp>
#include <mllama/kernels/x86/amx.hpp>
#include <mllama/kernels/x86/avx2.hpp>
#include <mllama/kernels/x86/avx512.hpp>
#include <mllama/kernels/x86/avx_vnni.hpp>

/// Attention's bodies for x86. Those in floats are the same with and without dot products of integers.

#if MLLAMA_HAS_X86_BODIES
#define MLLAMA_TARGET MLLAMA_AVX2
namespace mllama::kernels::isa::avx2 {
#include <mllama/kernels/isa/attention.inc>
#include <mllama/kernels/isa/attention_words.inc>
}  // namespace mllama::kernels::isa::avx2
#undef MLLAMA_TARGET

#define MLLAMA_TARGET MLLAMA_AVX_VNNI
namespace mllama::kernels::isa::avx_vnni {
using avx2::body_of_parts, avx2::difference, avx2::gather_rows, avx2::hide_unseen, avx2::padded_dim, avx2::power_of_two,
    avx2::store_queries, avx2::subtracted;
#include <mllama/kernels/isa/attention_words.inc>
}  // namespace mllama::kernels::isa::avx_vnni
#undef MLLAMA_TARGET

#define MLLAMA_TARGET MLLAMA_AVX512
namespace mllama::kernels::isa::avx512 {
#include <mllama/kernels/isa/attention.inc>
#include <mllama/kernels/isa/attention_words.inc>
}  // namespace mllama::kernels::isa::avx512
#undef MLLAMA_TARGET

#define MLLAMA_TARGET MLLAMA_AVX512_VNNI
namespace mllama::kernels::isa::avx512_vnni {
using avx512::body_of_parts, avx512::difference, avx512::gather_rows, avx512::hide_unseen, avx512::padded_dim, avx512::power_of_two,
    avx512::store_queries, avx512::subtracted;
#include <mllama/kernels/isa/attention_words.inc>
}  // namespace mllama::kernels::isa::avx512_vnni
#undef MLLAMA_TARGET

#define MLLAMA_TARGET MLLAMA_AVX512_BF16
namespace mllama::kernels::isa::avx512_amx {
using avx512::attention_body, avx512::difference, avx512::gather_rows, avx512::power_of_two;
#include <mllama/kernels/isa/attention_matrices.inc>
}  // namespace mllama::kernels::isa::avx512_amx
#undef MLLAMA_TARGET
#endif
