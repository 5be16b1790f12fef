// SPDX-License-Identifier: MIT
#pragma once

#include <concepts>

#include <mllama/kernels/matmul.hpp>
#include <mllama/kernels/x86/avx2.hpp>

namespace mllama::kernels {

namespace detail {

/// The product, by a body of the context's instruction set. False if there is none for this matrix.
template <class Compute, class Ctx, class F>
bool multiply_by_instruction_set(Ctx& ctx, Matrix<const float> x, const Weights<F>& w, const Epilogue& epilogue, Matrix<float> y) {
  switch (ctx.instruction_set()) {
#if MLLAMA_HAS_X86_BODIES
    case InstructionSet::avx2:
      return isa::avx2::multiply_if_fits<isa::Avx2, Compute>(ctx, x, w, epilogue, y);
#endif
    default:
      return false;
  }
}

}  // namespace detail

/// Bodies of the processor's instruction set take the usual shapes, in the arithmetic of the back end; the rest is multiplied in
/// float32 by bodies of the instruction set that the program is compiled for.
template <class Arch, class Compute, class Ctx, class F>
void matmul_body(cpu<Arch, Compute>, Ctx& ctx, Matrix<const float> x, const Weights<F>& w, const Epilogue& epilogue,
                 Matrix<float> y) {
  static_assert(std::same_as<Compute, F32> || std::same_as<Compute, Int16> || std::same_as<Compute, Int8>,
                "cpu<Arch, Compute>: matrix products are computed in F32, Int16, Int8 or LLMInt8");
  if (detail::multiply_by_instruction_set<Compute>(ctx, x, w, epilogue, y)) return;
  if constexpr (requires { panel_matmul(cpu<Arch, F32>{}, ctx, x, w, epilogue, y); }) {
    panel_matmul(cpu<Arch, F32>{}, ctx, x, w, epilogue, y);
  } else {
    matmul_body(reference{}, ctx, x, w, epilogue, y);
  }
}

}  // namespace mllama::kernels
