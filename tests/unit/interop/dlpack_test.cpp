// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <array>
#include <cstdint>
#include <string>

#include <mllama/interop/dlpack.hpp>

using namespace mllama;

namespace {
/// A tensor of another library, which counts how often it is given back.
struct Foreign {
  std::array<float, 12> elements{};
  std::array<std::int64_t, 2> shape{4, 3}, strides{3, 1};
  int given_back = 0;
  DLManagedTensor managed{};

  Foreign() {
    DLTensor& tensor = managed.dl_tensor;
    tensor.data = elements.data();
    tensor.device = {kDLCPU, 0};
    tensor.ndim = 2;
    tensor.dtype = {kDLFloat, 32, 1};
    tensor.shape = shape.data();
    tensor.strides = strides.data();
    managed.manager_ctx = this;
    managed.deleter = [](DLManagedTensor* self) { ++static_cast<Foreign*>(self->manager_ctx)->given_back; };
  }
  Foreign(const Foreign&) = delete;
  Foreign& operator=(const Foreign&) = delete;

  /// What is said against it; it is given back in any case.
  std::string fault() {
    given_back = 0;
    std::string said;
    try {
      const FromDlpack<float, Rows, Dim<3>> taken(&managed);
    } catch (const input_error& error) {
      said = error.what();
    }
    CHECK(given_back == 1);
    return said;
  }
};
}  // namespace

TEST_CASE("a tensor is given away and taken back without a copy") {
  Tensor<float, Rows, Dim<3>> tensor({4});
  for (std::size_t i = 0; i < 12; ++i) tensor.data()[i] = static_cast<float>(i);
  const float* const elements = tensor.data();
  DLManagedTensor* const given = to_dlpack(std::move(tensor));
  CHECK(given->dl_tensor.data == elements);
  CHECK(given->dl_tensor.ndim == 2);
  CHECK(given->dl_tensor.shape[0] == 4);
  CHECK(given->dl_tensor.shape[1] == 3);
  CHECK(given->dl_tensor.strides[0] == 3);
  CHECK(given->dl_tensor.strides[1] == 1);
  CHECK(given->dl_tensor.dtype.code == kDLFloat);
  CHECK(given->dl_tensor.dtype.bits == 32);
  const FromDlpack<const float, Rows, Dim<3>> taken(given);
  CHECK(taken.view().data() == elements);
  CHECK(taken.view()[3][2] == 11);

  std::array<std::int8_t, 6> bytes{};
  DLManagedTensor* const lent = to_dlpack(View<std::int8_t, Rows, Rows>(bytes.data(), {2, 3}));
  CHECK(lent->dl_tensor.data == bytes.data());
  CHECK(lent->dl_tensor.dtype.code == kDLInt);
  lent->deleter(lent);
}

TEST_CASE("a tensor of another library is used where it lies, and given back once") {
  Foreign foreign;
  foreign.elements[5] = 7;
  {
    const FromDlpack<float, Rows, Dim<3>> taken(&foreign.managed);
    CHECK(taken.view().data() == foreign.elements.data());
    CHECK(taken.view()[1][2] == 7);
    CHECK(foreign.given_back == 0);
  }
  CHECK(foreign.given_back == 1);
  CHECK(foreign.fault().empty());
  foreign.managed.dl_tensor.strides = nullptr;
  CHECK(foreign.fault().empty());
  foreign.managed.dl_tensor.byte_offset = 12;
  foreign.shape[0] = 3;
  const FromDlpack<float, Rows, Dim<3>> behind(&foreign.managed);
  CHECK(behind.view().data() == foreign.elements.data() + 3);
}

TEST_CASE("a tensor of another library that is no such view is refused with a reason") {
  const auto fault = [](auto&& change) {
    Foreign foreign;
    change(foreign, foreign.managed.dl_tensor);
    return foreign.fault();
  };
  const std::string field = "DLPack tensor: expected ";
  CHECK(fault([](auto&, auto& t) { t.device.device_type = kDLCUDA; }) ==
        field + "elements in the processor's memory, found device type 2");
  CHECK(fault([](auto&, auto& t) { t.dtype.bits = 64; }) == field + "code 2 of 32 bits, 1 lanes, found code 2 of 64 bits, 1 lanes");
  CHECK(fault([](auto&, auto& t) { t.dtype.lanes = 4; }) == field + "code 2 of 32 bits, 1 lanes, found code 2 of 32 bits, 4 lanes");
  CHECK(fault([](auto&, auto& t) { t.ndim = 1; }) == field + "2 axes, found 1");
  CHECK(fault([](auto&, auto& t) { t.shape = nullptr; }) == field + "2 axes, found 2 without a shape");
  CHECK(fault([](auto& f, auto&) { f.shape[1] = 4; }) == field + "a length of 3 along axis 1, found 4");
  CHECK(fault([](auto& f, auto&) { f.shape[0] = -1; }) == field + "a length along axis 0, found -1");
  CHECK(fault([](auto& f, auto&) { f.strides = {1, 4}; }) == field + "a stride of 1 along axis 1, found 4");
  CHECK(fault([](auto& f, auto&) { f.strides[0] = 6; }) == field + "a stride of 3 along axis 0, found 6");
  CHECK(fault([](auto& f, auto& t) {
          f.shape[0] = std::int64_t{1} << 62U;
          t.strides = nullptr;
        }) == field + "a size that fits memory, found more");
  CHECK(fault([](auto&, auto& t) { t.byte_offset = 2; }) == field + "aligned elements, found others");
  const auto take_nothing = [] { FromDlpack<float, Rows> nothing(nullptr); };
  CHECK_THROWS_AS(take_nothing(), input_error);
}
