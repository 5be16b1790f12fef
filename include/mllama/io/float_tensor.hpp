// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <mllama/core/check.hpp>
#include <mllama/core/format.hpp>
#include <mllama/io/elements.hpp>
#include <mllama/io/safetensors.hpp>
#include <span>
#include <string>

/// Tensors of floating-point numbers as weights.

namespace mllama {

namespace detail {

/// The element type that a dense format is stored in.
template <DenseFormat F>
[[nodiscard]] constexpr Dtype dtype_of() {
  constexpr auto found = std::ranges::find(dtype_facts, F::name, &DtypeFacts::name);
  static_assert(found != dtype_facts.end(), "a dense format has the name of an element type of safetensors");
  return static_cast<Dtype>(found - dtype_facts.begin());
}

/// The formats that a format leaves to the file: itself, or its choices.
template <class F>
struct FormatList {
  template <class Use>
  static bool any(Use&& use) {
    return use.template operator()<F>();
  }
};
template <class... Fs>
struct FormatList<AnyOf<Fs...>> {
  template <class Use>
  static bool any(Use&& use) {
    return (use.template operator()<Fs>() || ...);
  }
};

/// `NF4, BF16`
template <class F>
[[nodiscard]] std::string format_names() {
  std::string names;
  FormatList<F>::any([&]<class G>() {
    names += concat(names.empty() ? "" : ", ", G::name);
    return false;
  });
  return names;
}

/// Weights in one of the formats of F.
template <class F, class G>
void assign(Weights<F>& weights, const Weights<G>& found) {
  if constexpr (std::same_as<F, G>) {
    weights = found;
  } else {
    weights.stored = found;
  }
}

/// A tensor of a file, as it lies there.
struct FloatsOfFile {
  const FileTensor& tensor;
  Elements& elements;

  [[nodiscard]] Dtype dtype() const noexcept { return tensor.dtype; }
  template <DenseFormat F>
  [[nodiscard]] const typename F::stored* as_stored() const {
    return elements.of<typename F::stored>(tensor);
  }
  template <DenseFormat F>
  [[nodiscard]] const float* widened() const {
    return elements.widened<F>(tensor.bytes);
  }
};

/// Points `weights` at numbers of the shape `shape` = [rows, …], if the format takes their type: as they are stored where it has that
/// type; else F16 and BF16 are widened, if it has F32. False if it does not take them.
template <WeightFormat F, class Floats>
[[nodiscard]] bool bind_float(Weights<F>& weights, std::span<const std::size_t> shape, const Floats& floats) {
  const auto matrix = [&]<class G>(const typename G::stored* data) {
    std::size_t columns = 1;
    for (const std::size_t length : shape.subspan(1)) columns *= length;
    return Weights<G>{data, shape[0], columns};
  };
  const auto as_stored = [&]<class G>() {
    if constexpr (DenseFormat<G>) {
      if (floats.dtype() != dtype_of<G>()) return false;
      assign(weights, matrix.template operator()<G>(floats.template as_stored<G>()));
      return true;
    }
    return false;
  };
  const auto widened = [&]<class G>() {
    if constexpr (std::same_as<G, F32>) {
      if (floats.dtype() != Dtype::BF16 && floats.dtype() != Dtype::F16) return false;
      assign(weights, matrix.template operator()<F32>(floats.dtype() == Dtype::BF16 ? floats.template widened<BF16>()
                                                                                    : floats.template widened<F16>()));
      return true;
    }
    return false;
  };
  return FormatList<F>::any(as_stored) || FormatList<F>::any(widened);
}

}  // namespace detail

/// Points `weights` at a tensor of floating-point numbers of the shape [rows, …] = `shape`, if the format takes their type: in place
/// where it has that type; else F16 and BF16 are widened, if it has F32. False if it does not take them.
template <WeightFormat F>
[[nodiscard]] bool bind_float(Weights<F>& weights, const FileTensor& tensor, std::span<const std::size_t> shape,
                              Elements& elements) {
  return detail::bind_float(weights, shape, detail::FloatsOfFile{tensor, elements});
}

}  // namespace mllama
