// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstddef>
#include <cstdlib>
#include <string>
#include <string_view>
#include <utility>

#include <mllama/core/check.hpp>

#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

/// Instruction sets that matrix products have bodies for beside those of the whole program: every program contains all of its
/// architecture's, whatever flags it is compiled with, and a context picks one when it is made.

namespace mllama {

/// In ascending order: where a processor has several, the last is the best.
enum class InstructionSet : unsigned char {
  generic,      ///< what the program is compiled for
  avx2,         ///< with FMA and F16C
  avx_vnni,     ///< AVX2 with dot products of integers
  avx512,       ///< F, BW, CD, DQ, VL
  avx512_vnni,  ///< the same with dot products of integers
  avx512_bf16,  ///< the same with dot products of bfloat16
  avx512_amx,   ///< the same with products of tiles of bfloat16
  neon_dot,     ///< NEON with dot products of bytes
};

namespace detail {
/// Their names in print and in the environment, in the order of the enumerators.
inline constexpr std::array<std::string_view, 8> instruction_set_names{"generic",    "avx2",       "avxvnni",   "avx512",
                                                                       "avx512vnni", "avx512bf16", "avx512amx", "neondot"};

#if defined(__x86_64__)
struct CpuLeaf {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  CpuLeaf(unsigned leaf, unsigned sub) { __get_cpuid_count(leaf, sub, &eax, &ebx, &ecx, &edx); }
};

/// All of these bits.
[[nodiscard]] constexpr bool has_bits(unsigned word, std::initializer_list<unsigned> bits) {
  for (const unsigned bit : bits) {
    if ((word >> bit & 1U) == 0) return false;
  }
  return true;
}

/// Linux saves tiles of a process that has asked for them once, before a thread touches one. It says no where a thread has an
/// alternate signal stack that their 8 KiB would not fit.
[[nodiscard]] inline bool may_use_tiles() {
#if defined(__linux__)
  constexpr long ask = 0x1023, tiles = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, ask, tiles) == 0;
#else
  return false;
#endif
}

[[nodiscard]] inline bool processor_has(InstructionSet set) {
  if (set == InstructionSet::generic) return true;
  const CpuLeaf basic(1, 0), extended(7, 0), more(7, 1);
  if (set == InstructionSet::neon_dot || !has_bits(basic.ecx, {12, 27, 28, 29})) return false;  // FMA, OSXSAVE, AVX, F16C
  unsigned saved = 0;  // registers that the operating system saves
  asm("xgetbv" : "=a"(saved) : "c"(0) : "edx");
  if (!has_bits(saved, {1, 2}) || !has_bits(extended.ebx, {5})) return false;
  switch (set) {
    case InstructionSet::avx2:
      return true;
    case InstructionSet::avx_vnni:
      return has_bits(more.eax, {4});
    default:  // F, DQ, CD, BW, VL, and the registers that they need
      return has_bits(saved, {5, 6, 7}) && has_bits(extended.ebx, {16, 17, 28, 30, 31}) &&
             (set == InstructionSet::avx512 || has_bits(extended.ecx, {11})) &&
             (set == InstructionSet::avx512 || set == InstructionSet::avx512_vnni || has_bits(more.eax, {5})) &&
             (set != InstructionSet::avx512_amx ||
              (has_bits(saved, {17, 18}) && has_bits(extended.edx, {22, 24}) && may_use_tiles()));
  }
}
#elif defined(__aarch64__) && defined(__linux__)
[[nodiscard]] inline bool processor_has(InstructionSet set) {
  constexpr unsigned long dot_products = 1UL << 20U;  // HWCAP_ASIMDDP
  return set == InstructionSet::generic || (set == InstructionSet::neon_dot && (getauxval(AT_HWCAP) & dot_products) != 0);
}
#else
[[nodiscard]] inline bool processor_has(InstructionSet set) { return set == InstructionSet::generic; }
#endif
}  // namespace detail

[[nodiscard]] constexpr std::string_view name_of(InstructionSet set) noexcept {
  return detail::instruction_set_names[static_cast<unsigned char>(set)];
}

/// Whether this processor runs such a body, and this program has it.
[[nodiscard]] inline bool available(InstructionSet set) { return detail::processor_has(set); }

/// The best that is available, or the one that the environment variable MLLAMA_ARCH names.
/// Errors:  input_error if that is none of the names, or not available.
[[nodiscard]] inline InstructionSet chosen_instruction_set() {
  const char* const wanted = std::getenv("MLLAMA_ARCH");
  std::string choices;
  InstructionSet best = InstructionSet::generic;
  for (std::size_t i = 0; i < detail::instruction_set_names.size(); ++i) {
    const auto set = static_cast<InstructionSet>(i);
    if (!available(set)) continue;
    if (wanted != nullptr && name_of(set) == wanted) return set;
    if (!choices.empty()) choices += ", ";
    choices += name_of(set);
    best = set;
  }
  check<input_error>(wanted == nullptr || *wanted == '\0',
                     [&] { return Fault{.field = "MLLAMA_ARCH", .expected = concat("one of ", choices), .found = wanted}; });
  return best;
}

}  // namespace mllama
