// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <numeric>
#include <string>
#include <type_traits>

#include <mllama/core/context.hpp>
#include <mllama/interop/eigen.hpp>
#include <mllama/kernels/matmul.hpp>

using namespace mllama;

namespace {
using RowMajor = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

template <class E>
std::string fault_of(E& eigen) {
  try {
    static_cast<void>(view_of<Tokens, Dim<3>>(eigen));
  } catch (const input_error& fault) {
    return fault.what();
  }
  return {};
}
template <class E>
concept Mappable = requires(E e) { eigen_map(std::forward<E>(e)); };
}  // namespace

TEST_CASE("a tensor is a matrix of Eigen, and the other way round") {
  Tensor<float, Tokens, Dim<3>> tensor({4});
  std::iota(tensor.flat().begin(), tensor.flat().end(), 0.0F);
  auto map = eigen_map(tensor);
  CHECK(map.rows() == 4);
  CHECK(map.cols() == 3);
  CHECK(map(2, 1) == tensor[2][1]);
  map(2, 1) = -1;
  CHECK(tensor[2][1] == -1);
  CHECK(map.sum() == 66 - 7 - 1);
  const auto& fixed = tensor;
  static_assert(std::is_same_v<decltype(eigen_map(fixed)), EigenMap<const float>>);
  CHECK(eigen_map(fixed).data() == tensor.data());
  CHECK(eigen_map(tensor.view().slice(1, 2))(0, 0) == 3);
  static_assert(Mappable<Tensor<float, Tokens, Dim<3>>&> && !Mappable<Tensor<float, Tokens, Dim<3>>>);

  const Matrix<float> strided{tensor.data(), 2, 2, 6};
  CHECK(eigen_map(strided)(1, 1) == tensor[2][1]);

  RowMajor matrix = RowMajor::Random(5, 3);
  const auto view = view_of<Tokens, Dim<3>>(matrix);
  static_assert(std::is_same_v<decltype(view), const View<float, Tokens, Dim<3>>>);
  CHECK(view.rows() == 5);
  CHECK(view[4][2] == matrix(4, 2));
  const RowMajor& constant = matrix;
  static_assert(std::is_same_v<decltype(matrix_of(constant)), Matrix<const float>>);
  CHECK(matrix_of(constant)[4] == &matrix(4, 0));
  auto block = matrix.block(1, 1, 2, 2);
  CHECK(matrix_of(block).stride == 3);
  CHECK(matrix_of(block)[1][1] == matrix(2, 2));
}

TEST_CASE("columns of another number, or rows that are apart, are no view") {
  RowMajor two = RowMajor::Zero(4, 2), wide = RowMajor::Zero(4, 5);
  CHECK(fault_of(two) ==
        "Eigen matrix: expected 3 columns in rows that follow one another, found 2 columns, rows 2 elements apart");
  auto part = wide.leftCols(3);
  CHECK(fault_of(part) ==
        "Eigen matrix: expected 3 columns in rows that follow one another, found 3 columns, rows 5 elements apart");
  auto one = wide.topLeftCorner(1, 3);
  CHECK(fault_of(one).empty());
  using Stepped = Eigen::Map<RowMajor, Eigen::Unaligned, Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic>>;
  Stepped stepped(wide.data(), 2, 3, {10, 2});
  CHECK(fault_of(stepped) == "Eigen matrix: expected an inner stride of 1, found 2");
}

TEST_CASE("kernels read and write Eigen's memory") {
  Context<> ctx(1);
  const RowMajor x = RowMajor::Random(7, 24), w = RowMajor::Random(5, 24);
  RowMajor y(7, 5);
  kernels::matmul(ctx, matrix_of(x), Weights<F32>(w.data(), 5, 24), {}, matrix_of(y));
  const RowMajor expected = x * w.transpose();
  CHECK((y - expected).cwiseAbs().maxCoeff() < 1e-5F);
}
