// SPDX-License-Identifier: MIT
#pragma once

#include <mllama/kernels/isa/attention_task.hpp>
#include <mllama/kernels/neon/attention.hpp>
#include <mllama/kernels/reference/attention.hpp>
#include <mllama/kernels/simd/attention.hpp>
#include <mllama/kernels/x86/attention.hpp>

namespace mllama::kernels {

namespace detail {

/// The body of an instruction set for so many rows and an arithmetic of products, or null. Not inline, so that it can be compiled elsewhere.
template <class Arch>
[[nodiscard]] const isa::AttentionBody* attention_body_of([[maybe_unused]] InstructionSet set, [[maybe_unused]] Precision precision,
                                                          [[maybe_unused]] std::size_t rows) {
  // Only what may be chosen is compiled.
  [[maybe_unused]] constexpr auto chosen = [](auto... sets) {
    return !arch::is_pinned<Arch> || ((Arch::instruction_set == sets) || ...);
  };
#if MLLAMA_HAS_X86_BODIES
  [[maybe_unused]] const bool words = precision != Precision::f32 && rows >= isa::fewest_word_rows;
  if constexpr (chosen(InstructionSet::avx2)) {
    if (set == InstructionSet::avx2 && words) return &isa::avx2::word_attention_body<isa::Avx2, isa::Avx2>;
  }
  if constexpr (chosen(InstructionSet::avx_vnni)) {
    if (set == InstructionSet::avx_vnni && words) return &isa::avx_vnni::word_attention_body<isa::AvxVnni, isa::Avx2>;
  }
  if constexpr (chosen(InstructionSet::avx2, InstructionSet::avx_vnni)) {
    if (set == InstructionSet::avx2 || set == InstructionSet::avx_vnni) return &isa::avx2::attention_body<isa::Avx2>;
  }
  if constexpr (chosen(InstructionSet::avx512_amx)) {
    using Isa = isa::Avx512Amx;
    if (set == InstructionSet::avx512_amx && rows >= isa::fewest_matrix_rows) {
      switch (precision) {
        case Precision::f32:
          return &isa::avx512_amx::matrix_attention_body<Isa, 3>;
        case Precision::int16:
          return &isa::avx512_amx::matrix_attention_body<Isa, 2>;
        default:
          return &isa::avx512_amx::matrix_attention_body<Isa, 1>;
      }
    }
  }
  if constexpr (chosen(InstructionSet::avx512)) {
    if (set == InstructionSet::avx512 && words) return &isa::avx512::word_attention_body<isa::Avx512, isa::Avx512>;
  }
  if constexpr (chosen(InstructionSet::avx512_vnni, InstructionSet::avx512_bf16, InstructionSet::avx512_amx)) {
    if (set >= InstructionSet::avx512_vnni && set <= InstructionSet::avx512_amx && words) {
      return &isa::avx512_vnni::word_attention_body<isa::Avx512Vnni, isa::Avx512>;
    }
  }
  if constexpr (chosen(InstructionSet::avx512, InstructionSet::avx512_vnni, InstructionSet::avx512_bf16,
                       InstructionSet::avx512_amx)) {
    if (set >= InstructionSet::avx512 && set <= InstructionSet::avx512_amx) {
      return &isa::avx512::attention_body<isa::Avx512>;
    }
  }
#endif
#if MLLAMA_HAS_NEON_BODIES
  if constexpr (chosen(InstructionSet::neon_dot)) {
    if (set == InstructionSet::neon_dot) return &isa::neon_dot::attention_body<isa::NeonDot>;
  }
#endif
#if MLLAMA_HAS_XSIMD
  if constexpr (VectorArch<Arch> && chosen(InstructionSet::generic)) return &isa::compiled::attention_body<XsimdFloats<Arch>>;
#endif
  return nullptr;
}

#if defined(MLLAMA_ELSEWHERE)
extern template const isa::AttentionBody* attention_body_of<arch::native>(InstructionSet, Precision, std::size_t);
#endif

/// The arithmetic of products, as far as attention goes with it.
template <class Compute, class Ctx>
[[nodiscard]] Precision precision_of([[maybe_unused]] const Ctx& ctx) {
  if constexpr (std::same_as<Compute, AnyPrecision>) {
    return ctx.precision();
  } else {
    return std::same_as<Compute, Int16>  ? Precision::int16
           : std::same_as<Compute, BF16> ? Precision::bf16
           : std::same_as<Compute, Int8> ? Precision::int8
                                         : Precision::f32;
  }
}

}  // namespace detail

/// By a body of the context's instruction set, or else of the one that the program is compiled for.
/// Costs:   reads keys and values once for a row (twice per 8 query heads of a key/value head, the second time from a cache), and for
///          many rows once per 48 vectors of queries; heads of a group count as queries
template <class Arch, class Compute, class Ctx>
void attention_body(cpu<Arch, Compute>, Ctx& ctx, const Heads& heads, Matrix<const float> q, std::span<const KeyBlock> blocks,
                    const Visibility& visible, Matrix<float> out) {
  if (const isa::AttentionBody* const body =
          detail::attention_body_of<Arch>(ctx.instruction_set(), detail::precision_of<Compute>(ctx), q.rows)) {
    isa::attend(ctx, *body, heads, q, blocks, visible, out);
  } else {
    attention_body(reference{}, ctx, heads, q, blocks, visible, out);
  }
}

}  // namespace mllama::kernels
