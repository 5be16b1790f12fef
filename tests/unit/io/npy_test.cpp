// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <cstdint>
#include <mllama/io/npy.hpp>
#include <string>
#include <vector>

#include "temporary_folder.hpp"

using namespace mllama;
using mllama_test::message;
using mllama_test::TemporaryFolder;

namespace {
const std::string magic("\x93NUMPY", 6);

/// A file with this dictionary and so many bytes of elements.
std::string file_of(std::string_view dictionary, std::size_t bytes, char version = 1) {
  std::string size(version == 1 ? 2 : 4, '\0');
  for (std::size_t i = 0; i < size.size(); ++i) size[i] = static_cast<char>(dictionary.size() >> 8 * i);
  return magic + version + '\0' + size + std::string(dictionary) + std::string(bytes, 'x');
}
constexpr std::string_view good = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }";
}  // namespace

TEST_CASE("files are those of numpy.save") {
  const TemporaryFolder folder;
  Tensor<float, Rows, Dim<3>> tensor({2});
  for (std::size_t i = 0; i < 6; ++i) tensor.data()[i] = static_cast<float>(i);
  write_npy(folder / "a.npy", tensor.view());
  // NumPy 2.4.6: numpy.save("a.npy", numpy.arange(6, dtype="f4").reshape(2, 3))
  CHECK(folder.read("a.npy").substr(0, 128) ==
        magic + std::string("\x01\x00v\x00", 4) + std::string(good) + std::string(58, ' ') + '\n');
  const NpyFile file(folder / "a.npy");
  CHECK(file.type() == "<f4");
  CHECK(file.shape() == std::vector<std::size_t>{2, 3});
  const auto read = file.elements<float>();
  CHECK(std::vector(read.begin(), read.end()) == std::vector<float>{0, 1, 2, 3, 4, 5});
  CHECK(message<format_error>([&] { static_cast<void>(file.elements<double>()); }) ==
        (folder / "a.npy") + ": descr: expected <f8, found <f4");

  const std::vector<std::uint8_t> bytes{7, 8, 9};
  const std::size_t three = 3;
  write_npy<std::uint8_t>(folder / "b.npy", bytes, {&three, 1});
  CHECK(folder.read("b.npy").find("{'descr': '|u1', 'fortran_order': False, 'shape': (3,), }") == 10);
  CHECK(folder.read("b.npy").size() == 131);
  CHECK(NpyFile(folder / "b.npy").elements<std::uint8_t>()[2] == 9);

  const double number = 2.5;
  write_npy<double>(folder / "c.npy", {&number, 1}, {});
  CHECK(folder.read("c.npy").size() == 136);
  CHECK(NpyFile(folder / "c.npy").shape().empty());
  CHECK(NpyFile(folder / "c.npy").elements<double>()[0] == 2.5);
}

TEST_CASE("other writers' headers are read") {
  const TemporaryFolder folder;
  const auto shape = [&](std::string_view dictionary, std::size_t bytes, char version = 1) {
    return NpyFile(folder.write("f.npy", file_of(dictionary, bytes, version))).shape();
  };
  using Shape = std::vector<std::size_t>;
  CHECK(shape(good, 24) == Shape{2, 3});
  CHECK(shape(good, 24, 2) == Shape{2, 3});
  CHECK(shape(good, 24, 3) == Shape{2, 3});
  CHECK(shape(R"({"shape":(5,),"descr":"|i1","fortran_order":False}  )", 5) == Shape{5});
  CHECK(shape("{'shape':(0,9), 'descr':'<i8', 'fortran_order' : False}\n", 0) == Shape{0, 9});
}

TEST_CASE("an array file that is not one is refused with a reason") {
  const TemporaryFolder folder;
  const auto fault = [&](std::string_view content) {
    const std::string path = folder.write("f.npy", content);
    return message<format_error>([&] { NpyFile file(path); }).substr(path.size() + 2);
  };
  CHECK(fault("") == "file: expected an array of NumPy, found 0 bytes");
  CHECK(fault("PK\3\4 archive") == "file: expected an array of NumPy, found other first bytes");
  CHECK(fault(magic) == "version: expected 1, 2 or 3, found 0");
  CHECK(fault(magic + '\4') == "version: expected 1, 2 or 3, found 4");
  CHECK(fault(magic + '\1') == "header: expected 0 bytes, found 0");
  CHECK(fault(magic + std::string("\1\0\xff\xff{", 5)) == "header: expected 65535 bytes, found 1");
  CHECK(fault(magic + std::string("\2\0\xff\xff\xff\xff{", 7)) == "header: expected 4294967295 bytes, found 1");
  CHECK(fault(file_of(good, 23)) == "elements: expected 6 of 4 bytes, found 23 bytes");
  CHECK(fault(file_of(good, 28)) == "elements: expected 6 of 4 bytes, found 28 bytes");
  CHECK(fault(file_of("", 0)) == "header: expected {, found its end");
  CHECK(fault(file_of("{", 0)) == "header: expected a short text in quotes, found its end");
  CHECK(fault(file_of("{'descr", 0)) == "header: expected a short text in quotes, found \"'descr\"");
  CHECK(fault(file_of("{}", 0)) == "header: expected descr, fortran_order and shape, found fewer");
  CHECK(fault(file_of("{'descr':'<f4','descr':'<f4'}", 0)) ==
        "header: expected descr, fortran_order and shape, once each, found descr");
  CHECK(fault(file_of("{'order':'<f4'}", 0)) == "header: expected descr, fortran_order and shape, once each, found order");
  CHECK(fault(file_of("{'fortran_order': True, }", 0)) ==
        "header: expected fortran_order False: rows that lie together, found \"True, }\"");
  const auto with_shape = [&](std::string_view shape) {
    return fault(file_of(concat("{'descr': '<f4', 'fortran_order': False, 'shape': ", shape, "}"), 4));
  };
  CHECK(with_shape("(-1,)") == "header: expected a length, found \"-1,)}\"");
  CHECK(with_shape("(18446744073709551616,)") == "header: expected a length, found \"18446744073709551616\"");
  CHECK(with_shape("(4294967296, 4294967296)") == "shape: expected elements in 89 bytes, found more of them");
  CHECK(with_shape("(1 2)") == "header: expected ), found \"2)}\"");
  CHECK(with_shape("(1,) 0") == "header: expected }, found \"0}\"");
  std::string many = "(";
  for (int i = 0; i < 65; ++i) many += "1,";
  CHECK(with_shape(many + ")") == "shape: expected at most 64 axes, found more");
  const auto with_type = [&](std::string_view type) {
    return fault(file_of(concat("{'descr': '", type, "', 'fortran_order': False, 'shape': ()}"), 4));
  };
  CHECK(with_type("|O") == "descr: expected numbers: <f4, <i8, |u1 …, found |O");
  CHECK(with_type(">f4") == "descr: expected numbers: <f4, <i8, |u1 …, found >f4");
  CHECK(fault(file_of(concat(good, "0"), 24)) == "header: expected nothing behind the dictionary, found \"0\"");
  const NpyFile odd(folder.write("odd.npy", file_of(good, 24)));  // 10 bytes and 59: no alignment
  CHECK(message<format_error>([&] {
          static_cast<void>(odd.elements<float>());
        }).ends_with("header: expected a length that aligns elements, found 69"));
  CHECK_THROWS_AS(NpyFile(folder / "missing.npy"), file_error);
}
