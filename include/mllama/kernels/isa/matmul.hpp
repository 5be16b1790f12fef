// SPDX-License-Identifier: MIT
#pragma once

#include <concepts>

#include <mllama/kernels/isa/operands.hpp>
#include <mllama/kernels/matmul.hpp>
#include <mllama/kernels/neon/neon_dot.hpp>
#include <mllama/kernels/x86/amx.hpp>
#include <mllama/kernels/x86/avx2.hpp>
#include <mllama/kernels/x86/avx512.hpp>
#include <mllama/kernels/x86/avx_vnni.hpp>

namespace mllama::kernels {

namespace detail {

/// What an instruction set multiplies so many rows by. Not inline, so that it can be compiled elsewhere: it contains all bodies.
template <class Arch, class Compute, class F>
isa::Operand operand_of([[maybe_unused]] InstructionSet set, [[maybe_unused]] const Weights<F>& w,
                        [[maybe_unused]] std::size_t rows) {
  // Only what may be chosen is compiled. Dot products of integers make a difference to integers only, those of bfloat16 to it, and
  // matrix registers to many rows.
  [[maybe_unused]] constexpr auto chosen = [](auto... sets) {
    return !arch::is_pinned<Arch> || ((Arch::instruction_set == sets) || ...);
  };
  [[maybe_unused]] constexpr bool rounds = std::same_as<Compute, BF16>;
  [[maybe_unused]] constexpr bool integers = !std::same_as<Compute, F32> && !rounds && !DenseFormat<F>;
  switch (set) {
#if MLLAMA_HAS_X86_BODIES
    case InstructionSet::avx_vnni:
      if constexpr (chosen(InstructionSet::avx_vnni) && integers) {
        return isa::avx_vnni::operand<isa::AvxVnni, Compute>(w, rows);
      }
      [[fallthrough]];
    case InstructionSet::avx2:
      if constexpr (chosen(InstructionSet::avx2) || (chosen(InstructionSet::avx_vnni) && !integers)) {
        return isa::avx2::operand<isa::Avx2, Compute>(w, rows);
      }
      break;
    case InstructionSet::avx512_amx:
      if constexpr (chosen(InstructionSet::avx512_amx)) {
        const isa::Operand of_matrices = isa::avx512_amx::matrix_operand<isa::Avx512Amx, Compute>(w, rows);
        if (of_matrices.body != nullptr) return of_matrices;
      }
      [[fallthrough]];
    case InstructionSet::avx512_bf16:
      if constexpr (chosen(InstructionSet::avx512_bf16, InstructionSet::avx512_amx) && rounds) {
        return isa::avx512_bf16::operand<isa::Avx512Bf16, Compute>(w, rows);
      }
      [[fallthrough]];
    case InstructionSet::avx512_vnni:
      if constexpr (chosen(InstructionSet::avx512_vnni, InstructionSet::avx512_bf16, InstructionSet::avx512_amx) && integers) {
        return isa::avx512_vnni::operand<isa::Avx512Vnni, Compute>(w, rows);
      }
      [[fallthrough]];
    case InstructionSet::avx512:
      if constexpr (chosen(InstructionSet::avx512) || (chosen(InstructionSet::avx512_vnni) && !integers) ||
                    (chosen(InstructionSet::avx512_bf16, InstructionSet::avx512_amx) && !integers && !rounds)) {
        return isa::avx512::operand<isa::Avx512, Compute>(w, rows);
      }
      break;
#endif
#if MLLAMA_HAS_NEON_BODIES
    case InstructionSet::neon_dot:
      if constexpr (chosen(InstructionSet::neon_dot)) {
        return isa::neon_dot::operand<isa::NeonDot, Compute>(w, rows);
      }
      break;
#endif
    default:
      break;
  }
  return {};
}

#if defined(MLLAMA_ELSEWHERE)
#define MLLAMA_PRODUCTS_WITH(EXTERN, COMPUTE, FORMAT) \
  EXTERN template isa::Operand operand_of<arch::native, COMPUTE, FORMAT>(InstructionSet, const Weights<FORMAT>&, std::size_t);
/// All bodies of products in an arithmetic: declared here, defined in a program that links mllama::kernels.
#define MLLAMA_PRODUCTS(EXTERN, COMPUTE)      \
  MLLAMA_PRODUCTS_WITH(EXTERN, COMPUTE, NF4)  \
  MLLAMA_PRODUCTS_WITH(EXTERN, COMPUTE, FP4)  \
  MLLAMA_PRODUCTS_WITH(EXTERN, COMPUTE, Int8) \
  MLLAMA_PRODUCTS_WITH(EXTERN, COMPUTE, F32)  \
  MLLAMA_PRODUCTS_WITH(EXTERN, COMPUTE, BF16) \
  MLLAMA_PRODUCTS_WITH(EXTERN, COMPUTE, F16)
MLLAMA_PRODUCTS(extern, F32)
MLLAMA_PRODUCTS(extern, Int16)
MLLAMA_PRODUCTS(extern, BF16)
MLLAMA_PRODUCTS(extern, Int8)
#endif

}  // namespace detail

/// The body, if there is one, that a back end multiplies so many rows by.
template <class B, class Ctx, class F>
[[nodiscard]] isa::Operand operand_of(B, const Ctx&, const Weights<F>&, std::size_t) {
  return {};
}
template <class Arch, class Compute, class Ctx, class F>
  requires(std::same_as<Compute, F32> || std::same_as<Compute, Int16> || std::same_as<Compute, BF16> || std::same_as<Compute, Int8>)
[[nodiscard]] isa::Operand operand_of(cpu<Arch, Compute>, const Ctx& ctx, const Weights<F>& w, std::size_t rows) {
  if constexpr (PackedFormat<F>) {
    return {};
  } else {
    return detail::operand_of<Arch, Compute>(ctx.instruction_set(), w, rows);
  }
}
template <class Arch, class Ctx, class F>
[[nodiscard]] isa::Operand operand_of(cpu<Arch, AnyPrecision>, const Ctx& ctx, const Weights<F>& w, std::size_t rows) {
  switch (ctx.precision()) {
    case Precision::f32:
      return operand_of(cpu<Arch, F32>{}, ctx, w, rows);
    case Precision::int16:
      return operand_of(cpu<Arch, Int16>{}, ctx, w, rows);
    case Precision::bf16:
      return operand_of(cpu<Arch, BF16>{}, ctx, w, rows);
    case Precision::int8:
      return operand_of(cpu<Arch, Int8>{}, ctx, w, rows);
  }
  return {};
}

/// Bodies of the processor's instruction set take the usual shapes, in the arithmetic of the back end; the rest is multiplied in
/// float32 by bodies of the instruction set that the program is compiled for.
template <class Arch, class Compute, class Ctx, class F>
void matmul_body(cpu<Arch, Compute>, Ctx& ctx, Matrix<const float> x, const Weights<F>& w, const Epilogue& epilogue,
                 Matrix<float> y) {
  static_assert(
      std::same_as<Compute, F32> || std::same_as<Compute, Int16> || std::same_as<Compute, BF16> || std::same_as<Compute, Int8>,
      "cpu<Arch, Compute>: matrix products are computed in F32, Int16, BF16, Int8, LLMInt8 or AnyPrecision");
  if constexpr (PackedFormat<F>) {
    if constexpr (!std::same_as<Compute, F32>) return matmul_body(cpu<Arch, F32>{}, ctx, x, w, epilogue, y);
  } else {
    if (const isa::Product product{operand_of(cpu<Arch, Compute>{}, ctx, w, x.rows), epilogue, y};
        product.weights.body != nullptr) {
      return isa::multiply(ctx, x, {&product, 1});
    }
  }
#if MLLAMA_HAS_XSIMD
  if constexpr (detail::VectorArch<Arch>) {
    panel_matmul(cpu<Arch, F32>{}, ctx, x, detail::StoredMatrix(w), epilogue, y);
  } else
#endif
  {
    matmul_body(reference{}, ctx, x, w, epilogue, y);
  }
}

/// The arithmetic that the context names.
template <class Arch, class Ctx, class F>
void matmul_body(cpu<Arch, AnyPrecision>, Ctx& ctx, Matrix<const float> x, const Weights<F>& w, const Epilogue& epilogue,
                 Matrix<float> y) {
  switch (ctx.precision()) {
    case Precision::f32:
      return matmul_body(cpu<Arch, F32>{}, ctx, x, w, epilogue, y);
    case Precision::int16:
      return matmul_body(cpu<Arch, Int16>{}, ctx, x, w, epilogue, y);
    case Precision::bf16:
      return matmul_body(cpu<Arch, BF16>{}, ctx, x, w, epilogue, y);
    case Precision::int8:
      return matmul_body(cpu<Arch, Int8>{}, ctx, x, w, epilogue, y);
  }
}

}  // namespace mllama::kernels
