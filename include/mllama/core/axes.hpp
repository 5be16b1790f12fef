// SPDX-License-Identifier: MIT
#pragma once

#include <concepts>

/// The axes of a tensor are types, so that a compiler's message and a debugger print them as written:
/// `View<const float, Tokens, Dim<4096>>`.

namespace mllama {

/// A feature axis: its length is part of the type.
template <int N>
struct Dim {
  static_assert(N > 0, "Dim<N>: a length is positive");
  static constexpr int size = N;
};

/// Axes whose length is known at run time only. Rows of different meaning do not mix, even when their number agrees.
struct Rows {};            ///< rows of any meaning
struct Tokens {};          ///< text positions of all sequences of a batch, packed one after the other
struct ImagePositions {};  ///< positions of one picture inside the vision encoders: tiles x padded length
struct ImageTokens {};     ///< vision states of one picture: tiles x (patches + class), what cross-attention reads

template <class A>
concept RunTimeAxis =
    std::same_as<A, Rows> || std::same_as<A, Tokens> || std::same_as<A, ImagePositions> || std::same_as<A, ImageTokens>;

namespace detail {
template <class A>
inline constexpr bool is_dim = false;
template <int N>
inline constexpr bool is_dim<Dim<N>> = true;
}  // namespace detail

template <class A>
concept StaticAxis = detail::is_dim<A>;

template <class A>
concept Axis = RunTimeAxis<A> || StaticAxis<A>;

}  // namespace mllama
