// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <type_traits>
#include <utility>

#include <mllama/core/check.hpp>
#include <mllama/core/tensor.hpp>

#if __has_include(<dlpack/dlpack.h>)
#include <dlpack/dlpack.h>
#else
#error "mllama/interop/dlpack.hpp needs <dlpack/dlpack.h> (Debian: libdlpack-dev)"
#endif

/// Tensors in DLPack's struct, with which array libraries hand tensors to one another without copies. Not part of mllama.hpp.
/// Source:  https://dmlc.github.io/dlpack

namespace mllama {

namespace detail {

template <class T>
[[nodiscard]] constexpr DLDataType dlpack_type() {
  static_assert(std::is_arithmetic_v<T>, "DLPack: elements are integers or floating-point numbers");
  const DLDataTypeCode code = std::is_floating_point_v<T> ? kDLFloat : std::is_signed_v<T> ? kDLInt : kDLUInt;
  return {static_cast<std::uint8_t>(code), static_cast<std::uint8_t>(8 * sizeof(T)), 1};
}

/// A struct of DLPack, what it points at, and who owns the elements.
template <class Owner, std::size_t Rank>
struct DlpackHolder {
  Owner owner;
  std::array<std::int64_t, Rank> shape{}, strides{};
  DLManagedTensor managed{};

  explicit DlpackHolder(Owner own) : owner(std::move(own)) {
    const auto view = owner.view();
    using T = std::remove_pointer_t<decltype(view.data())>;
    std::int64_t stride = 1;
    for (std::size_t axis = Rank; axis-- != 0;) {
      shape[axis] = static_cast<std::int64_t>(view.length(axis));
      strides[axis] = stride;
      stride *= std::max<std::int64_t>(shape[axis], 1);
    }
    managed.dl_tensor.data = const_cast<std::remove_const_t<T>*>(view.data());  // DLPack knows no constant elements
    managed.dl_tensor.device = {kDLCPU, 0};
    managed.dl_tensor.ndim = static_cast<int>(Rank);
    managed.dl_tensor.dtype = dlpack_type<std::remove_const_t<T>>();
    managed.dl_tensor.shape = shape.data();
    managed.dl_tensor.strides = strides.data();
    managed.manager_ctx = this;
    managed.deleter = [](DLManagedTensor* self) { delete static_cast<DlpackHolder*>(self->manager_ctx); };
  }
};

}  // namespace detail

/// Gives a tensor away. Whoever has the result calls its `deleter` once.
/// Shapes:  those of the tensor, row-major, on the processor
template <class T, Axis... Axes>
[[nodiscard]] DLManagedTensor* to_dlpack(Tensor<T, Axes...>&& tensor) {
  return &(new detail::DlpackHolder<Tensor<T, Axes...>, sizeof...(Axes)>(std::move(tensor)))->managed;
}

/// Lends somebody's elements, which must outlive the result and its users. Whoever has the result calls its `deleter` once.
template <class T, Axis... Axes>
[[nodiscard]] DLManagedTensor* to_dlpack(View<T, Axes...> view) {
  return &(new detail::DlpackHolder<View<T, Axes...>, sizeof...(Axes)>(view))->managed;
}

/// A tensor of another library, given back to it at the end.
template <class T, Axis... Axes>
class FromDlpack {
 public:
  /// Takes over `tensor`, also when it throws.
  /// Errors:  input_error if its elements, place, shape or strides are not those of a View<T, Axes...>.
  explicit FromDlpack(DLManagedTensor* tensor) : tensor_(tensor) {
    require(tensor != nullptr, [] { return Fault{.expected = "a tensor", .found = "a null pointer"}; });
    const DLTensor& from = tensor->dl_tensor;
    const DLDataType type = detail::dlpack_type<std::remove_const_t<T>>();
    require(from.device.device_type == kDLCPU, [&] {
      return Fault{.expected = "elements in the processor's memory", .found = concat("device type ", int{from.device.device_type})};
    });
    require(from.dtype.code == type.code && from.dtype.bits == type.bits && from.dtype.lanes == 1, [&] {
      const auto show = [](DLDataType t) {
        return concat("code ", int{t.code}, " of ", int{t.bits}, " bits, ", int{t.lanes}, " lanes");
      };
      return Fault{.expected = show(type), .found = show(from.dtype)};
    });
    require(from.ndim == static_cast<int>(sizeof...(Axes)) && (from.ndim == 0 || from.shape != nullptr), [&] {
      return Fault{.expected = concat(sizeof...(Axes), " axes"),
                   .found = concat(from.ndim, from.shape == nullptr ? " without a shape" : "")};
    });
    typename View<T, Axes...>::Lengths lengths{};
    std::size_t axis = 0, next = 0;
    const auto read = [&]<class A>(std::type_identity<A>) {
      const std::int64_t length = from.shape[axis];
      if constexpr (StaticAxis<A>) {
        require(length == A::size,
                [&] { return Fault{.expected = concat("a length of ", A::size, " along axis ", axis), .found = concat(length)}; });
      } else {
        require(length >= 0, [&] { return Fault{.expected = concat("a length along axis ", axis), .found = concat(length)}; });
        lengths[next++] = static_cast<std::size_t>(length);
      }
      ++axis;
    };
    (read(std::type_identity<Axes>{}), ...);
    std::int64_t stride = 1;
    for (std::size_t a = sizeof...(Axes); a-- != 0;) {
      require(from.strides == nullptr || from.shape[a] <= 1 || from.strides[a] == stride, [&] {
        return Fault{.expected = concat("a stride of ", stride, " along axis ", a), .found = concat(from.strides[a])};
      });
      const std::int64_t length = std::max<std::int64_t>(from.shape[a], 1);
      require(length <= most_elements / stride, [] { return Fault{.expected = "a size that fits memory", .found = "more"}; });
      stride *= length;
    }
    auto* const bytes = static_cast<std::byte*>(from.data) + from.byte_offset;
    require(reinterpret_cast<std::uintptr_t>(bytes) % alignof(T) == 0,
            [] { return Fault{.expected = "aligned elements", .found = "others"}; });
    view_ = View<T, Axes...>(reinterpret_cast<T*>(bytes), lengths);
  }

  [[nodiscard]] View<T, Axes...> view() const noexcept { return view_; }

 private:
  static constexpr std::int64_t most_elements = std::int64_t{1} << 48U;

  template <std::invocable MakeFault>
  static void require(bool condition, MakeFault&& fault) {
    check(condition, [&] {
      Fault made = fault();
      made.field = "DLPack tensor";
      return made;
    });
  }

  struct GiveBack {
    void operator()(DLManagedTensor* tensor) const noexcept {
      if (tensor->deleter != nullptr) tensor->deleter(tensor);
    }
  };
  std::unique_ptr<DLManagedTensor, GiveBack> tensor_;
  View<T, Axes...> view_;
};

}  // namespace mllama
