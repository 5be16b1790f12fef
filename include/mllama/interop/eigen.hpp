// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <type_traits>

#include <mllama/core/check.hpp>
#include <mllama/core/tensor.hpp>

#if __has_include(<Eigen/Core>)
#include <Eigen/Core>
#elif __has_include(<eigen3/Eigen/Core>)
#include <eigen3/Eigen/Core>
#else
#error "mllama/interop/eigen.hpp needs Eigen 3.4 (Debian: libeigen3-dev)"
#endif

/// Tensors as Eigen's matrices and the other way round, without copies. Not part of mllama.hpp: nothing else needs Eigen.

namespace mllama {

/// Somebody's rows as a matrix of Eigen.
template <class T>
using EigenMap =
    Eigen::Map<std::conditional_t<std::is_const_v<T>,
                                  const Eigen::Matrix<std::remove_const_t<T>, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>,
                                  Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>>,
               Eigen::Unaligned, Eigen::OuterStride<>>;

/// Shapes:  (rows, width); of a view or tensor of any rank, the last axis is the width and the others together are the rows.
template <class T>
[[nodiscard]] EigenMap<T> eigen_map(Matrix<T> matrix) {
  const auto index = [](std::size_t length) { return static_cast<Eigen::Index>(length); };
  return {matrix.data, index(matrix.rows), index(matrix.width), Eigen::OuterStride<>(index(matrix.stride))};
}
template <class T, Axis... Axes>
[[nodiscard]] EigenMap<T> eigen_map(View<T, Axes...> view) {
  return eigen_map(static_cast<Matrix<T>>(view));
}
template <class T, Axis... Axes>
[[nodiscard]] EigenMap<T> eigen_map(Tensor<T, Axes...>& tensor) {
  return eigen_map(tensor.view());
}
template <class T, Axis... Axes>
[[nodiscard]] EigenMap<const T> eigen_map(const Tensor<T, Axes...>& tensor) {
  return eigen_map(tensor.view());
}
template <class T, Axis... Axes>
void eigen_map(Tensor<T, Axes...>&&) = delete;  // the elements would be gone

namespace detail {
template <class E>
inline constexpr bool is_row_major =
    requires { requires static_cast<bool>(E::IsRowMajor) && (E::Flags & Eigen::DirectAccessBit) != 0; };
}  // namespace detail

/// The rows of a matrix, map or block of Eigen, for kernels. Refers to its elements.
/// Errors:  does not compile for columns that lie together (Eigen's default): `Eigen::Matrix<float, …, …, Eigen::RowMajor>`.
template <class E>
[[nodiscard]] auto matrix_of(E& eigen) {
  static_assert(detail::is_row_major<E>, "matrix_of: rows of an Eigen matrix lie together: Eigen::RowMajor, and no expression");
  using T = std::remove_pointer_t<decltype(eigen.data())>;
  check(eigen.innerStride() == 1,
        [&] { return Fault{.field = "Eigen matrix", .expected = "an inner stride of 1", .found = concat(eigen.innerStride())}; });
  const auto size = [](Eigen::Index length) { return static_cast<std::size_t>(length); };
  return Matrix<T>{eigen.data(), size(eigen.rows()), size(eigen.cols()), size(eigen.outerStride())};
}

/// The same under axes, for layers: `view_of<Tokens, Dim<4096>>(matrix)`.
/// Errors:  input_error if the number of columns is another, or rows do not follow one another.
template <Axis RowAxis, Axis ColumnAxis, class E>
  requires RunTimeAxis<RowAxis> && StaticAxis<ColumnAxis>
[[nodiscard]] auto view_of(E& eigen) {
  const auto matrix = matrix_of(eigen);
  constexpr auto width = static_cast<std::size_t>(ColumnAxis::size);
  check(matrix.width == width && (matrix.rows <= 1 || matrix.stride == width), [&] {
    return Fault{.field = "Eigen matrix",
                 .expected = concat(width, " columns in rows that follow one another"),
                 .found = concat(matrix.width, " columns, rows ", matrix.stride, " elements apart")};
  });
  return View<std::remove_pointer_t<decltype(matrix.data)>, RowAxis, ColumnAxis>(matrix.data, {matrix.rows});
}

}  // namespace mllama
