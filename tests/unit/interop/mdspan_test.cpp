// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <mllama/interop/mdspan.hpp>

TEST_CASE("a tensor is a std::mdspan with its static extents") {
#if defined(__cpp_lib_mdspan)
  using namespace mllama;
  Tensor<float, Tokens, Dim<3>> tensor({4});
  for (std::size_t i = 0; i < 12; ++i) tensor.data()[i] = static_cast<float>(i);
  const auto span = mdspan_of(tensor);
  static_assert(decltype(span)::static_extent(0) == std::dynamic_extent && decltype(span)::static_extent(1) == 3);
  CHECK(span.extent(0) == 4);
  CHECK(span[2, 1] == 7);
  const auto& constant = tensor;
  static_assert(std::is_same_v<decltype(mdspan_of(constant))::element_type, const float>);
#else
  MESSAGE("skipped: this standard library has no std::mdspan");
#endif
}
