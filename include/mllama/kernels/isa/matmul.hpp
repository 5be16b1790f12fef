// SPDX-License-Identifier: MIT
#pragma once

#include <concepts>

#include <mllama/kernels/matmul.hpp>
#include <mllama/kernels/neon/neon_dot.hpp>
#include <mllama/kernels/x86/avx2.hpp>
#include <mllama/kernels/x86/avx512.hpp>
#include <mllama/kernels/x86/avx_vnni.hpp>

namespace mllama::kernels {

namespace detail {

/// The product, by a body of the context's instruction set. False if there is none for this matrix.
template <class Compute, class Ctx, class F>
bool multiply_by_instruction_set(Ctx& ctx, Matrix<const float> x, const Weights<F>& w, const Epilogue& epilogue, Matrix<float> y) {
#if MLLAMA_HAS_X86_BODIES
  // Dot products of integers make a difference to integers only: what is multiplied in float32 is not compiled again for them.
  constexpr bool integers = !std::same_as<Compute, F32> && !DenseFormat<F>;
  switch (ctx.instruction_set()) {
    case InstructionSet::avx_vnni:
      if constexpr (integers) return isa::avx_vnni::multiply_if_fits<isa::AvxVnni, Compute>(ctx, x, w, epilogue, y);
      [[fallthrough]];
    case InstructionSet::avx2:
      return isa::avx2::multiply_if_fits<isa::Avx2, Compute>(ctx, x, w, epilogue, y);
    case InstructionSet::avx512_vnni:
      if constexpr (integers) return isa::avx512_vnni::multiply_if_fits<isa::Avx512Vnni, Compute>(ctx, x, w, epilogue, y);
      [[fallthrough]];
    case InstructionSet::avx512:
      return isa::avx512::multiply_if_fits<isa::Avx512, Compute>(ctx, x, w, epilogue, y);
    default:
      break;
  }
#endif
#if MLLAMA_HAS_NEON_BODIES
  if (ctx.instruction_set() == InstructionSet::neon_dot) {
    return isa::neon_dot::multiply_if_fits<isa::NeonDot, Compute>(ctx, x, w, epilogue, y);
  }
#endif
  return false;
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
#if MLLAMA_HAS_XSIMD
  if constexpr (detail::VectorArch<Arch>) {
    panel_matmul(cpu<Arch, F32>{}, ctx, x, detail::StoredMatrix(w), epilogue, y);
  } else
#endif
  {
    matmul_body(reference{}, ctx, x, w, epilogue, y);
  }
}

}  // namespace mllama::kernels
