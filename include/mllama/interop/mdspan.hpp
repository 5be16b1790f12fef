// SPDX-License-Identifier: MIT
#pragma once

#include <version>

#if defined(__cpp_lib_mdspan)
#include <cstddef>
#include <mdspan>
#include <utility>

#include <mllama/core/tensor.hpp>

/// Tensors as std::mdspan, where the standard library has it (C++23). Not part of mllama.hpp.

namespace mllama {

namespace detail {
template <Axis A>
[[nodiscard]] constexpr std::size_t extent_of() {
  if constexpr (StaticAxis<A>) {
    return static_cast<std::size_t>(A::size);
  } else {
    return std::dynamic_extent;
  }
}
}  // namespace detail

/// The elements of a view: a static axis is a static extent, a run-time axis a dynamic one.
template <class T, Axis... Axes>
[[nodiscard]] constexpr auto mdspan_of(View<T, Axes...> view) {
  using Extents = std::extents<std::size_t, detail::extent_of<Axes>()...>;
  return std::mdspan<T, Extents>(view.data(), Extents(view.run_time_lengths()));
}
template <class T, Axis... Axes>
[[nodiscard]] auto mdspan_of(Tensor<T, Axes...>& tensor) {
  return mdspan_of(tensor.view());
}
template <class T, Axis... Axes>
[[nodiscard]] auto mdspan_of(const Tensor<T, Axes...>& tensor) {
  return mdspan_of(tensor.view());
}
template <class T, Axis... Axes>
void mdspan_of(Tensor<T, Axes...>&&) = delete;  // the elements would be gone

}  // namespace mllama
#endif
