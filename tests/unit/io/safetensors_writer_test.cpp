// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <algorithm>
#include <cstdint>
#include <mllama/io/safetensors_writer.hpp>
#include <string>
#include <vector>

#include "temporary_folder.hpp"

using namespace mllama;
using mllama_test::message;
using mllama_test::TemporaryFolder;

namespace {
std::span<const std::byte> bytes(std::string_view text) { return std::as_bytes(std::span(text)); }
}  // namespace

TEST_CASE("what is written is read") {
  const TemporaryFolder folder;
  const std::string data = "0123456789abcdefghijklmn";
  const std::vector<FileTensor> tensors{
      {"b.bytes", Dtype::U8, {3}, bytes("xyz")},       {"wide", Dtype::F32, {2, 3}, bytes(data)},
      {"quote\"\\\n é", Dtype::BF16, {}, bytes("no")}, {"empty", Dtype::F64, {0, 5}, {}},
      {"a.bytes", Dtype::U8, {1, 1}, bytes("w")},      {"nibbles", Dtype::F4, {2, 3}, bytes("nib")},
  };
  write_safetensors(folder / "f", tensors, {{"format", "pt"}, {"a", "\x01\""}});
  CHECK(folder.files() == 1);

  Safetensors opened(folder / "f");
  const Safetensors file(std::move(opened));
  CHECK(file.metadata() == Metadata{{"format", "pt"}, {"a", "\x01\""}});
  REQUIRE(file.tensors().size() == tensors.size());
  for (const FileTensor& tensor : tensors) {
    CAPTURE(tensor.name);
    const FileTensor* const found = file.find(tensor.name);
    REQUIRE(found != nullptr);
    CHECK(found->dtype == tensor.dtype);
    CHECK(found->shape == tensor.shape);
    CHECK(std::ranges::equal(found->bytes, tensor.bytes));
    if (bits(found->dtype) >= 8) CHECK(reinterpret_cast<std::uintptr_t>(found->bytes.data()) % (bits(found->dtype) / 8) == 0);
  }
  CHECK(file.find("wid") == nullptr);
  CHECK(std::ranges::is_sorted(file.tensors(), {}, &FileTensor::name));
}

TEST_CASE("the bytes are those of the reference writer") {
  const TemporaryFolder folder;
  const std::string four(4, '\1'), three(3, '\2');
  write_safetensors(folder / "f", std::vector<FileTensor>{{"z", Dtype::U8, {3}, bytes(three)},
                                                          {"b", Dtype::F32, {1}, bytes(four)},
                                                          {"a", Dtype::F32, {1}, bytes(four)}});
  const std::string header =
      R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]},)"
      R"("z":{"dtype":"U8","shape":[3],"data_offsets":[8,11]}})";
  const std::string padding((8 - header.size() % 8) % 8, ' ');
  const std::string length{static_cast<char>(header.size() + padding.size()), 0, 0, 0, 0, 0, 0, 0};
  CHECK(folder.read("f") == length + header + padding + four + four + three);
  write_safetensors(folder / "none", {});
  CHECK(folder.read("none") == std::string("\x08\0\0\0\0\0\0\0{}      ", 16));
  write_safetensors(folder / "line", {}, {{"a\n", "\t\x01"}});
  CHECK(folder.read("line").substr(8) == R"({"__metadata__":{"a\n":"\t\u0001"}})" + std::string(5, ' '));
}

TEST_CASE("what breaks the format is not written") {
  const TemporaryFolder folder;
  const auto what = [&](const std::vector<FileTensor>& tensors) {
    return message<format_error>([&] { write_safetensors(folder / "f", tensors); });
  };
  CHECK(what({{"a", Dtype::U8, {3}, bytes("xy")}}).find("a: expected 3 bytes for U8 [3], found 2") != std::string::npos);
  CHECK(what({{"a", Dtype::U8, {1}, bytes("x")}, {"a", Dtype::U8, {1}, bytes("x")}}).find("found \"a\" twice") !=
        std::string::npos);
  CHECK(what({{"\xff", Dtype::U8, {1}, bytes("x")}}).find("UTF-8") != std::string::npos);
  CHECK(what({{"__metadata__", Dtype::U8, {1}, bytes("x")}}).find("__metadata__") != std::string::npos);
  CHECK(folder.files() == 0);
}
