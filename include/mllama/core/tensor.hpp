// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <limits>
#include <memory>
#include <span>
#include <type_traits>
#include <utility>

#include <mllama/core/axes.hpp>
#include <mllama/core/check.hpp>
#include <mllama/core/workspace.hpp>

/// Row-major tensors whose axes are types: `Tensor` owns its elements, `View` refers to somebody's, and `Matrix` is what kernels
/// take: plain sizes, so that a kernel is compiled once and not once per width.

#if defined(__CUDACC__)
#pragma nv_diag_suppress 554  // views of constant elements have a conversion to themselves, which nothing calls
#endif

namespace mllama {

/// Rows of `width` elements that lie `stride` elements apart.
template <class T>
struct Matrix {
  T* data = nullptr;
  std::size_t rows = 0;
  std::size_t width = 0;
  std::size_t stride = width;

  [[nodiscard]] constexpr T* operator[](std::size_t row) const noexcept { return data + row * stride; }
  [[nodiscard]] constexpr std::span<T> row(std::size_t index) const noexcept { return {data + index * stride, width}; }

  /// A matrix of constant elements from one of mutable ones.
  template <class U>
    requires(std::is_same_v<U, const T> && !std::is_const_v<T>)
  constexpr operator Matrix<U>() const noexcept {  // NOLINT(google-explicit-constructor)
    return {data, rows, width, stride};
  }
};

/// Elements of someone else's, with the axes `Axes`. Copying one copies a pointer and the run-time lengths.
/// Shapes:  one length per run-time axis, in order, is given to the constructor.
template <class T, Axis... Axes>
class View {
 public:
  static constexpr std::size_t rank = sizeof...(Axes);
  static constexpr std::size_t run_time_rank = (std::size_t{RunTimeAxis<Axes>} + ... + 0);
  using element = T;
  using Lengths = std::array<std::size_t, run_time_rank>;

  constexpr View() noexcept = default;
  constexpr View(T* data, Lengths lengths) noexcept : data_(data), lengths_(lengths) {}
  explicit constexpr View(T* data) noexcept
    requires(run_time_rank == 0)
      : data_(data) {}

  /// A view of constant elements from one of mutable ones.
  constexpr operator View<const T, Axes...>() const noexcept  // NOLINT(google-explicit-constructor)
    requires(!std::is_const_v<T>)
  {
    return {data_, lengths_};
  }

  /// What kernels take: the last axis is the width, the others together are the rows.
  constexpr operator Matrix<T>() const noexcept  // NOLINT(google-explicit-constructor)
    requires(rank >= 1)
  {
    const std::size_t width = length(rank - 1);
    return {data_, width == 0 ? 0 : size() / width, width, width};
  }
  constexpr operator Matrix<const T>() const noexcept  // NOLINT(google-explicit-constructor)
    requires(rank >= 1 && !std::is_const_v<T>)
  {
    return static_cast<Matrix<T>>(*this);
  }

  [[nodiscard]] constexpr View view() const noexcept { return *this; }  // so that templates may take tensors and views alike
  [[nodiscard]] constexpr T* data() const noexcept { return data_; }
  [[nodiscard]] constexpr const Lengths& run_time_lengths() const noexcept { return lengths_; }

  [[nodiscard]] constexpr std::size_t length(std::size_t axis) const noexcept {
    std::size_t result = 0, index = 0, next = 0;
    const auto consider = [&]<class A>(std::type_identity<A>) {
      std::size_t here = 0;
      if constexpr (StaticAxis<A>) {
        here = static_cast<std::size_t>(A::size);
      } else {
        here = lengths_[next++];
      }
      if (index++ == axis) result = here;
    };
    (consider(std::type_identity<Axes>{}), ...);
    return result;
  }

  [[nodiscard]] constexpr std::size_t rows() const noexcept
    requires(rank == 2)
  {
    return length(0);
  }
  [[nodiscard]] constexpr std::size_t size() const noexcept {
    std::size_t product = 1;
    for (std::size_t axis = 0; axis < rank; ++axis) product *= length(axis);
    return product;
  }

  /// The elements in memory order.
  [[nodiscard]] constexpr std::span<T> flat() const noexcept { return {data_, size()}; }

  /// The elements of one row of a matrix.
  [[nodiscard]] constexpr std::span<T> operator[](std::size_t row) const noexcept
    requires(rank == 2)
  {
    return {data_ + row * length(1), length(1)};
  }

  /// Rows [first, first + count) of a tensor whose first axis is a run-time one.
  [[nodiscard]] constexpr View slice(std::size_t first, std::size_t count) const noexcept
    requires(run_time_rank >= 1)
  {
    Lengths lengths = lengths_;
    const std::size_t all = lengths[0];
    lengths[0] = count;
    return {data_ + (all == 0 ? 0 : first * (size() / all)), lengths};
  }

  /// The same elements under other axes, for the places where a tensor changes its meaning (heads, tiles).
  template <Axis... Others>
  [[nodiscard]] constexpr View<T, Others...> as(typename View<T, Others...>::Lengths lengths = {}) const noexcept {
    return {data_, lengths};
  }

 private:
  T* data_ = nullptr;
  [[no_unique_address]] Lengths lengths_{};
};

/// A tensor that owns its elements, on the heap, in memory of a source, or in a workspace. Elements are not initialised. Can be moved, not copied.
/// Errors:  std::bad_alloc, also when the number of bytes does not fit a size.
template <class T, Axis... Axes>
class Tensor {
 public:
  using View = mllama::View<T, Axes...>;
  using ConstView = mllama::View<const T, Axes...>;
  using Lengths = typename View::Lengths;

  Tensor() = default;

  /// On the heap, or where the source has it.
  explicit Tensor(Lengths lengths, MemorySource& source = *std::pmr::new_delete_resource())
      : view_(nullptr, lengths), owned_(source, bytes_for(lengths)) {
    view_ = View(reinterpret_cast<T*>(owned_.get()), lengths);
  }

  /// In a workspace, which must outlive the tensor.
  Tensor(Workspace& workspace, Lengths lengths) : workspace_(&workspace) {
    view_ = View(reinterpret_cast<T*>(workspace.take(bytes_for(lengths))), lengths);
  }

  Tensor(Tensor&& other) noexcept
      : view_(std::exchange(other.view_, View{})),
        owned_(std::move(other.owned_)),
        workspace_(std::exchange(other.workspace_, nullptr)) {}
  Tensor& operator=(Tensor&& other) noexcept {
    if (this != &other) {
      release();
      view_ = std::exchange(other.view_, View{});
      owned_ = std::move(other.owned_);
      workspace_ = std::exchange(other.workspace_, nullptr);
    }
    return *this;
  }
  Tensor(const Tensor&) = delete;
  Tensor& operator=(const Tensor&) = delete;
  ~Tensor() { release(); }

  [[nodiscard]] View view() noexcept { return view_; }
  [[nodiscard]] ConstView view() const noexcept { return view_; }
  operator View() noexcept { return view_; }                              // NOLINT(google-explicit-constructor)
  operator ConstView() const noexcept { return view_; }                   // NOLINT(google-explicit-constructor)
  operator Matrix<T>() noexcept { return view_; }                         // NOLINT(google-explicit-constructor)
  operator Matrix<const T>() const noexcept { return ConstView(view_); }  // NOLINT(google-explicit-constructor)

  [[nodiscard]] T* data() noexcept { return view_.data(); }
  [[nodiscard]] const T* data() const noexcept { return view_.data(); }
  [[nodiscard]] std::size_t size() const noexcept { return view_.data() == nullptr ? 0 : view_.size(); }
  [[nodiscard]] std::size_t rows() const noexcept { return view_.rows(); }
  [[nodiscard]] std::span<T> flat() noexcept { return {data(), size()}; }
  [[nodiscard]] std::span<const T> flat() const noexcept { return {data(), size()}; }
  [[nodiscard]] std::span<T> operator[](std::size_t row) noexcept { return view_[row]; }
  [[nodiscard]] std::span<const T> operator[](std::size_t row) const noexcept { return ConstView(view_)[row]; }

  void fill(T value) noexcept { std::ranges::fill(flat(), value); }

 private:
  static std::size_t bytes_for(const Lengths& lengths) {
    constexpr std::size_t most = std::numeric_limits<std::size_t>::max() / 2;
    std::size_t product = sizeof(T);
    const View shape(nullptr, lengths);
    for (std::size_t axis = 0; axis < View::rank; ++axis) {
      const std::size_t length = shape.length(axis);
      if (length != 0 && product > most / length) throw std::bad_alloc();
      product *= length;
    }
    return product;
  }

  void release() noexcept {
    if (workspace_ != nullptr) workspace_->give_back(reinterpret_cast<const std::byte*>(view_.data()));
    workspace_ = nullptr;
    owned_.reset();
  }

  View view_{};
  detail::SourcedBytes owned_;
  Workspace* workspace_ = nullptr;
};

}  // namespace mllama
