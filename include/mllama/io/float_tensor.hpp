// SPDX-License-Identifier: MIT
#pragma once

#include <concepts>
#include <cstddef>
#include <mllama/core/format.hpp>
#include <mllama/io/checkpoint.hpp>
#include <mllama/io/elements.hpp>
#include <mllama/io/safetensors.hpp>
#include <span>

namespace mllama {

namespace detail {
template <class F, class G>
void set(Weights<F>& weights, const Weights<G>& found) {
  if constexpr (std::same_as<F, G>) {
    weights = found;
  } else {
    weights.stored = found;
  }
}
}  // namespace detail

/// Points `weights` at a tensor of floating-point numbers of the shape `shape` = [rows, …], if the format takes its element type: in
/// place where it has that type; else F16 and BF16 are widened, if the format has F32. False if it does not take it.
template <WeightFormat F>
[[nodiscard]] bool bind_float(Weights<F>& weights, const FileTensor& tensor, std::span<const std::size_t> shape,
                              Elements& elements) {
  std::size_t columns = 1;
  for (const std::size_t length : shape.subspan(1)) columns *= length;
  const auto in_place = [&]<class G>() {
    if constexpr (DenseFormat<G>) {
      if (tensor.dtype != detail::dtype_of<G>()) return false;
      detail::set(weights, Weights<G>{elements.of<typename G::stored>(tensor), shape[0], columns});
      return true;
    }
    return false;
  };
  const auto widened = [&]<class G>() {
    if constexpr (std::same_as<G, F32>) {
      if (tensor.dtype != Dtype::BF16 && tensor.dtype != Dtype::F16) return false;
      const float* const wide = tensor.dtype == Dtype::BF16 ? elements.widened<BF16>(tensor) : elements.widened<F16>(tensor);
      detail::set(weights, Weights<F32>{wide, shape[0], columns});
      return true;
    }
    return false;
  };
  return detail::FormatList<F>::any(in_place) || detail::FormatList<F>::any(widened);
}

}  // namespace mllama
