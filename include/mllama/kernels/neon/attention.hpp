// SPDX-License-Identifier: MIT
#pragma once

#include <mllama/kernels/isa/attention_task.hpp>
#include <mllama/kernels/neon/neon_dot.hpp>

/// Attention's bodies for NEON.

#if MLLAMA_HAS_NEON_BODIES
#define MLLAMA_TARGET MLLAMA_NEON_DOT
namespace mllama::kernels::isa::neon_dot {
#include <mllama/kernels/isa/attention.inc>
}  // namespace mllama::kernels::isa::neon_dot
#undef MLLAMA_TARGET
#endif
