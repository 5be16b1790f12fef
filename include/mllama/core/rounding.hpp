// SPDX-License-Identifier: MIT
#pragma once

#include <concepts>
#include <type_traits>

namespace mllama {

/// Its argument, rounded to its type before anything else happens to it.
/// Compilers may fuse `a * b + c` into one operation with one rounding (GCC does by default); where the reference rounds twice,
/// write `rounded(a * b) + c`. Used by the nested scales of NF4, the rotary frequencies and Pillow's filter weights.
template <std::floating_point T>
[[nodiscard]] constexpr T rounded(T value) noexcept {
  if (!std::is_constant_evaluated()) {
#if defined(__CUDA_ARCH__)
    // Device code is compiled without contraction across this call; there is nothing to hold back.
#elif defined(__x86_64__)
    asm("" : "+x"(value));
#elif defined(__aarch64__)
    asm("" : "+w"(value));
#else
    volatile T held = value;
    value = held;
#endif
  }
  return value;
}

}  // namespace mllama
