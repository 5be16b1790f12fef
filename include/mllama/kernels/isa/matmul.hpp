// SPDX-License-Identifier: MIT
#pragma once

#include <concepts>
#include <span>

#include <mllama/kernels/matmul.hpp>
#include <mllama/kernels/neon/neon_dot.hpp>
#include <mllama/kernels/x86/avx2.hpp>
#include <mllama/kernels/x86/avx512.hpp>
#include <mllama/kernels/x86/avx_vnni.hpp>

namespace mllama::kernels {

namespace detail {

/// Products of the same activations, by a body of the context's instruction set. False if there is none for these matrices.
template <class Arch, class Compute, class Ctx, class F>
bool multiply_by_instruction_set(Ctx& ctx, Matrix<const float> x, std::span<const Product<F>> products) {
  // Only what may be chosen is compiled. Dot products of integers make a difference to integers only, those of bfloat16 to it.
  constexpr auto chosen = [](InstructionSet set) { return !arch::is_pinned<Arch> || Arch::instruction_set == set; };
  [[maybe_unused]] constexpr bool rounds = std::same_as<Compute, BF16>;
  [[maybe_unused]] constexpr bool integers = !std::same_as<Compute, F32> && !rounds && !DenseFormat<F>;
  switch (ctx.instruction_set()) {
#if MLLAMA_HAS_X86_BODIES
    case InstructionSet::avx_vnni:
      if constexpr (chosen(InstructionSet::avx_vnni) && integers) {
        return isa::avx_vnni::multiply_if_fits<isa::AvxVnni, Compute>(ctx, x, products);
      }
      [[fallthrough]];
    case InstructionSet::avx2:
      if constexpr (chosen(InstructionSet::avx2) || (chosen(InstructionSet::avx_vnni) && !integers)) {
        return isa::avx2::multiply_if_fits<isa::Avx2, Compute>(ctx, x, products);
      }
      break;
    case InstructionSet::avx512_bf16:
      if constexpr (chosen(InstructionSet::avx512_bf16) && rounds) {
        return isa::avx512_bf16::multiply_if_fits<isa::Avx512Bf16, Compute>(ctx, x, products);
      }
      [[fallthrough]];
    case InstructionSet::avx512_vnni:
      if constexpr ((chosen(InstructionSet::avx512_vnni) || chosen(InstructionSet::avx512_bf16)) && integers) {
        return isa::avx512_vnni::multiply_if_fits<isa::Avx512Vnni, Compute>(ctx, x, products);
      }
      [[fallthrough]];
    case InstructionSet::avx512:
      if constexpr (chosen(InstructionSet::avx512) ||
                    ((chosen(InstructionSet::avx512_vnni) || (chosen(InstructionSet::avx512_bf16) && !rounds)) && !integers)) {
        return isa::avx512::multiply_if_fits<isa::Avx512, Compute>(ctx, x, products);
      }
      break;
#endif
#if MLLAMA_HAS_NEON_BODIES
    case InstructionSet::neon_dot:
      if constexpr (chosen(InstructionSet::neon_dot)) {
        return isa::neon_dot::multiply_if_fits<isa::NeonDot, Compute>(ctx, x, products);
      }
      break;
#endif
    default:
      break;
  }
  return false;
}

}  // namespace detail

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
    const Product<F> product{&w, epilogue, y};
    if (detail::multiply_by_instruction_set<Arch, Compute>(ctx, x, std::span(&product, 1))) return;
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

/// The same bodies, if they take all of these matrices; the activations are prepared once for all.
template <class Arch, class Compute, class Ctx, class F>
bool multiply_together(cpu<Arch, Compute>, [[maybe_unused]] Ctx& ctx, [[maybe_unused]] Matrix<const float> x,
                       [[maybe_unused]] std::span<const Product<F>> products) {
  if constexpr (PackedFormat<F>) {
    return false;
  } else {
    return detail::multiply_by_instruction_set<Arch, Compute>(ctx, x, products);
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

template <class Arch, class Ctx, class F>
bool multiply_together(cpu<Arch, AnyPrecision>, Ctx& ctx, Matrix<const float> x, std::span<const Product<F>> products) {
  switch (ctx.precision()) {
    case Precision::f32:
      return multiply_together(cpu<Arch, F32>{}, ctx, x, products);
    case Precision::int16:
      return multiply_together(cpu<Arch, Int16>{}, ctx, x, products);
    case Precision::bf16:
      return multiply_together(cpu<Arch, BF16>{}, ctx, x, products);
    case Precision::int8:
      return multiply_together(cpu<Arch, Int8>{}, ctx, x, products);
  }
  return false;
}

}  // namespace mllama::kernels
