// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <cstdint>
#include <mllama/io/safetensors.hpp>
#include <mllama/io/safetensors_writer.hpp>
#include <random>
#include <string>
#include <vector>

#include "temporary_folder.hpp"

using namespace mllama;
using mllama_test::message;
using mllama_test::TemporaryFolder;

namespace {

std::string with_length(std::string_view header, std::string_view data, std::uint64_t length) {
  std::string file;
  for (unsigned i = 0; i < 8; ++i) file += static_cast<char>(length >> (8 * i) & 0xffU);
  return file.append(header).append(data);
}
std::string file_of(std::string_view header, std::string_view data) { return with_length(header, data, header.size()); }

std::span<const std::byte> bytes(std::string_view text) { return std::as_bytes(std::span(text)); }

}  // namespace

TEST_CASE("what the reference reader takes is taken") {
  const TemporaryFolder folder;
  for (const std::string_view header : {
           std::string_view(" \n{} "),
           std::string_view(R"({"__metadata__": {}})"),
           std::string_view(
               R"({"a": {"shape": [0, 7], "data_offsets": [0, 0], "dtype": "F32", "more": [1, {"x": -1.5}], "null": null}})"),
           std::string_view(
               R"({"a": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]},
                  "b": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}})"),
       }) {
    CAPTURE(header);
    CHECK_NOTHROW(Safetensors(folder.write("f", file_of(header, ""))));
  }
  // Tensors that are not aligned, as other writers have them.
  const Safetensors file(folder.write("f", file_of(R"({"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]}} )", "abcd")));
  CHECK(file.find("a")->size() == 1);
  CHECK(std::ranges::equal(file.find("a")->bytes, bytes("abcd")));
}

TEST_CASE("every rule of the format is enforced, and the tensor is named") {
  struct Row {
    std::string header, data, part;
  };
  const auto entry = [](std::string_view members) { return concat("{\"t\": {", members, "}}"); };
  const auto dims = [&](std::string_view shape) {
    return entry(concat(R"("dtype": "U8", "data_offsets": [0, 1], "shape": )", shape));
  };
  const auto offsets = [&](std::string_view list) {
    return entry(concat(R"("dtype": "U8", "shape": [1], "data_offsets": )", list));
  };
  const std::string one = R"({"dtype": "U8", "shape": [1], "data_offsets": [0, 1]})";
  const std::string two = R"({"dtype": "U8", "shape": [1], "data_offsets": [1, 2]})";
  const Row rows[] = {
      {"[]", "", "expected an object that names tensors, found []"},
      {"7", "", "expected an object that names tensors"},
      {"null", "", "expected an object that names tensors"},
      {"{", "", "byte 1: expected a key"},
      {"{} {}", "", "byte 3: expected the end of the text"},
      {"\xef\xbb\xbf{}", "", "byte 0: expected a value"},
      {std::string("{}\0", 3), "", "byte 2: expected the end of the text"},
      {R"({"t": 1})", "", "t: expected an object with dtype, shape and data_offsets, found 1"},
      {R"({"t": []})", "", "t: expected an object with"},
      {R"({"t": null})", "", "t: expected an object with"},
      {R"({"t": {}})", "", "t.data_offsets: expected an array, found nothing"},
      {entry(R"("dtype": "U8", "shape": [1])"), "x", "t.data_offsets: expected an array, found nothing"},
      {entry(R"("dtype": "U8", "data_offsets": [0, 1])"), "x", "t.shape: expected an array, found nothing"},
      {entry(R"("dtype": "U9", "shape": [1], "data_offsets": [0, 1])"), "x", "found \"U9\""},
      {entry(R"("dtype": "u8", "shape": [1], "data_offsets": [0, 1])"), "x", "found \"u8\""},
      {entry(R"("dtype": 8, "shape": [1], "data_offsets": [0, 1])"), "x", "t.dtype: expected the name of an element type, found 8"},
      {entry(R"("dtype": ["U8"], "shape": [1], "data_offsets": [0, 1])"), "x", "t.dtype: expected the name"},
      {entry(R"("dtype": "U8", "dtype": "U8", "shape": [1], "data_offsets": [0, 1])"), "x", "found \"dtype\" twice"},
      {entry(R"("dtype": "U8", "shape": [1], "shape": [1], "data_offsets": [0, 1])"), "x", "found \"shape\" twice"},
      {entry(R"("dtype": "U8", "shape": [1], "data_offsets": [0, 1], "data_offsets": [0, 1])"), "x",
       "found \"data_offsets\" twice"},
      {entry(R"("dtype": "U8", "shape": [1], "data_offsets": [0, 1], "x": [[[[]]]])"), "x", "expected at most 4 nested levels"},
      {dims("1"), "x", "t.shape: expected an array"},
      {dims("{}"), "x", "t.shape: expected an array"},
      {dims("[[1]]"), "x", "t.shape[0]: expected an integer from 0 to 9223372036854775807, found [1]"},
      {dims("[1.0]"), "x", "found 1.0"},
      {dims("[1e0]"), "x", "found 1e0"},
      {dims("[-0]"), "x", "found -0"},
      {dims("[-1]"), "x", "found -1"},
      {dims("[-9223372036854775808]"), "x", "found -9223372036854775808"},
      {dims("[9223372036854775808]"), "x", "found 9223372036854775808"},
      {dims("[18446744073709551616]"), "x", "found 18446744073709551616"},
      {dims("[\"1\"]"), "x", "found \"1\""},
      {dims("[null]"), "x", "found null"},
      {dims("[true]"), "x", "found true"},
      {dims("[1,1,1,1,1,1,1,1,1]"), "x", "t.shape: expected at most 8 elements"},
      {dims("[2]"), "x", "t: expected 2 bytes for U8 [2], found 1"},
      {dims("[0]"), "x", "t: expected 0 bytes"},
      {dims("[4294967296, 4294967296, 4294967296]"), "x", "t: expected a whole number of bytes below 2^64"},
      {dims("[9223372036854775807, 2]"), "x", "t: expected a whole number of bytes below 2^64"},
      {dims("[4294967296, 4294967296, 4294967296, 0]"), "x", "t: expected a whole number of bytes below 2^64"},
      {entry(R"("dtype": "F4", "shape": [3], "data_offsets": [0, 1])"), "x", "t: expected a whole number of bytes"},
      {entry(R"("dtype": "F6_E3M2", "shape": [2], "data_offsets": [0, 1])"), "x", "t: expected a whole number of bytes"},
      {entry(R"("dtype": "U8", "shape": [1152921504606846976], "data_offsets": [0, 1152921504606846976])"), "x",
       "expected 1152921504606846976 bytes of tensors, found 1"},
      {offsets("[0]"), "x", "t.data_offsets: expected two numbers, found [0]"},
      {offsets("[0, 1, 1]"), "x", "t.data_offsets: expected at most 2 elements"},
      {offsets("{}"), "x", "t.data_offsets: expected an array, found {}"},
      {offsets("[0, 1.0]"), "x", "found 1.0"},
      {offsets("[0, 1e0]"), "x", "found 1e0"},
      {offsets("[\"0\", 1]"), "x", "found \"0\""},
      {offsets("[0, -1]"), "x", "found -1"},
      {offsets("[0, 9223372036854775808]"), "x", "found 9223372036854775808"},
      {offsets("[-0, 1]"), "x", "found -0"},
      {offsets("[1, 0]"), "x", "t: expected bytes from 0 on, found data_offsets [1, 0]"},
      {offsets("[1, 2]"), "xy", "t: expected bytes from 0 on, found data_offsets [1, 2]"},
      {offsets("[0, 2]"), "xy", "t: expected 1 bytes for U8 [1], found 2"},
      {offsets("[0, 9223372036854775807]"), "x", "t: expected 1 bytes"},
      {offsets("[0, 18446744073709551615]"), "x", "found 18446744073709551615"},
      {offsets("[0, 1]"), "", "expected 1 bytes of tensors, found 0: the file is cut short"},
      {offsets("[0, 1]"), "xy", "expected 1 bytes of tensors, found 2"},
      {"{}", "x", "expected 0 bytes of tensors, found 1"},
      {concat(R"({"t": )", one, R"(, "u": )", one, "}"), "x", "u: expected bytes from 1 on"},
      {concat(R"({"t": )", one, R"(, "u": {"dtype": "U8", "shape": [1], "data_offsets": [2, 3]}})"), "xyz",
       "u: expected bytes from 1 on, found data_offsets [2, 3]"},
      {R"({"t": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}, "u": {"dtype": "U8", "shape": [2], "data_offsets": [1, 3]}})",
       "xyz", "u: expected bytes from 2 on, found data_offsets [1, 3]"},
      {concat(R"({"t": )", one, R"(, "t": )", two, "}"), "xy", "found \"t\" twice"},
      {concat(R"({"\u0074": )", one, R"(, "t": )", two, "}"), "xy", "found \"t\" twice"},
      {concat(R"({"t\u0000": )", one, "}"), "x", "NUL"},
      {concat("{\"", std::string(4097, 't'), "\": ", one, "}"), "x", "expected a name of at most 4096 bytes"},
      {concat("{\"t\xff\": ", one, "}"), "x", "UTF-8"},
      {concat(R"({"\udc00": )", one, "}"), "x", "surrogate"},
      {concat(R"({"\ud800": )", one, "}"), "x", "surrogate"},
      {concat(R"({"\ud800\ud800": )", one, "}"), "x", "surrogate"},
      {concat("{\"t\n\": ", one, "}"), "x", "an escaped control character"},
      {"\xff", "", "byte 0: expected a value"},
      {"{\"__metadata__\": {\"a\": \"\xff\"}}", "", "UTF-8"},
      {R"({"__metadata__": 1})", "", "__metadata__: expected an object"},
      {R"({"__metadata__": {"a": 1}})", "", "a: expected a string, found 1"},
      {R"({"__metadata__": {"a": {}}})", "", "a: expected a string, found {}"},
      {R"({"__metadata__": {"a": ["b"]}})", "", "a: expected a string, found [\"b\"]"},
      {R"({"__metadata__": {"a": "", "a": ""}})", "", "found \"a\" twice"},
      {R"({"__metadata__": {}, "__metadata__": {}})", "", "found \"__metadata__\" twice"},
  };
  const TemporaryFolder folder;
  for (const auto& [header, data, part] : rows) {
    CAPTURE(header);
    const std::string path = folder.write("f", file_of(header, data));
    const std::string what = message<format_error>([&] { Safetensors file(path); });
    CAPTURE(what);
    CHECK(what.starts_with(path + ": "));
    CHECK(what.find(part) != std::string::npos);
  }
}

TEST_CASE("every element type has its name and size") {
  constexpr std::pair<std::string_view, std::size_t> types[] = {
      {"BOOL", 8},    {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6},     {"U8", 8},          {"I8", 8},
      {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8}, {"I16", 16},
      {"U16", 16},    {"F16", 16},    {"BF16", 16},   {"I32", 32},        {"U32", 32},        {"F32", 32},
      {"F64", 64},    {"I64", 64},    {"U64", 64},    {"C64", 64}};
  const TemporaryFolder folder;
  for (const auto& [name, size] : types) {
    CAPTURE(name);
    const std::string header = concat(R"({"t": {"dtype": ")", name, R"(", "shape": [2, 4], "data_offsets": [0, )", size, "]}}");
    const Safetensors file(folder.write("f", file_of(header, std::string(size, 'x'))));
    CHECK(mllama::name(file.tensors()[0].dtype) == name);
    CHECK(bits(file.tensors()[0].dtype) == size);
  }
}

TEST_CASE("a header of many small entries is refused before it takes much memory") {
  const TemporaryFolder folder;
  std::string header = "{";
  for (int i = 0; i <= 1'000'000; ++i) {
    header += concat(i == 0 ? "\"" : ",\"", i, R"(":{"dtype":"U8","shape":[0],"data_offsets":[0,0]})");
  }
  CHECK(message<format_error>([&] {
          Safetensors file(folder.write("f", file_of(header + '}', "")));
        }).find("at most 1000000 tensors") != std::string::npos);
  header = R"({"__metadata__": {)";
  for (int i = 0; i <= 100'000; ++i) header += concat(i == 0 ? "\"" : ",\"", i, R"(":"")");
  CHECK(message<format_error>([&] {
          Safetensors file(folder.write("f", file_of(header + "}}", "")));
        }).find("at most 100000 members") != std::string::npos);
}

TEST_CASE("the length of the header is checked against the file") {
  const TemporaryFolder folder;
  const auto what = [&](const std::string& content) {
    return message<format_error>([&] { Safetensors file(folder.write("f", content)); });
  };
  CHECK(what("").find("at least 8 bytes, found 0 bytes") != std::string::npos);
  CHECK(what("1234567").find("at least 8 bytes, found 7 bytes") != std::string::npos);
  CHECK(what(with_length("{}", "", 3)).find("header: expected 3 bytes, found 2") != std::string::npos);
  CHECK(what(with_length("{}", "", 0)).find("byte 0: expected a value") != std::string::npos);
  CHECK(what(with_length("{}", "", 100'000'001)).find("at most 100000000, found 100000001") != std::string::npos);
  CHECK(what(with_length("{}", "", ~std::uint64_t{0})).find("at most 100000000") != std::string::npos);
}

TEST_CASE("no cut and no mutation of a file does more than throw an error") {
  const TemporaryFolder folder;
  const std::string data = "0123456789abcdefghijklmn";
  write_safetensors(folder / "f",
                    std::vector<FileTensor>{{"w.weight", Dtype::F32, {2, 3}, bytes(data)}, {"b", Dtype::U8, {3}, bytes("xyz")}},
                    {{"format", "pt"}});
  const std::string valid = folder.read("f");
  for (std::size_t length = 0; length < valid.size(); ++length) {
    CAPTURE(length);
    CHECK_THROWS_AS(Safetensors(folder.write("f", valid.substr(0, length))), format_error);
  }

  const auto seed = std::random_device{}();
  CAPTURE(seed);
  std::mt19937 random(seed);
  const std::string_view alphabet = "0123456789-+.eE\"\\{}[]:, ntu\xff\x80";
  for (int round = 0; round < 4000; ++round) {
    std::string mutant = valid;
    for (std::size_t edits = 1 + random() % 4; edits != 0; --edits) {
      const std::size_t at = random() % mutant.size();
      switch (random() % 4) {
        case 0:
          mutant[at] = static_cast<char>(random());
          break;
        case 1:
          mutant[at] = alphabet[random() % alphabet.size()];
          break;
        case 2:
          mutant.erase(at, 1 + random() % 4);
          break;
        default:
          mutant.insert(at, 1, alphabet[random() % alphabet.size()]);
          break;
      }
      if (mutant.empty()) mutant = "x";
    }
    try {
      const Safetensors file(folder.write("f", mutant));
      unsigned sum = 0;
      for (const FileTensor& tensor : file.tensors()) {
        for (const std::byte byte : tensor.bytes) sum += std::to_integer<unsigned>(byte);
      }
      CHECK(sum < 1'000'000);
    } catch (const error&) {
    }
  }
}
