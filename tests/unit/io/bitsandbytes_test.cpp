// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <mllama/io/bitsandbytes.hpp>
#include <vector>

#include "four_bit_matrix.hpp"
#include "temporary_folder.hpp"

using namespace mllama;
using mllama_test::FourBitMatrix;
using mllama_test::message;

namespace {

template <class F = NF4>
Weights<F> read(const std::vector<FileTensor>& tensors, const Shape& shape, Elements& elements) {
  QuantizedTensor quantized({&tensors.front(), "file"});
  for (const FileTensor& tensor : std::span(tensors).subspan(1))
    quantized.add({&tensor, "file"}, std::string_view(tensor.name).substr(1));
  return quantized.read<F>(shape, elements);
}

/// The same codes and scales as FP4.
std::vector<FileTensor> as_fp4(FourBitMatrix& matrix) {
  matrix.map.assign(FP4::table.begin(), FP4::table.end());
  matrix.state.replace(matrix.state.find("nf4"), 3, "fp4");
  auto tensors = matrix.tensors("w");
  tensors[2].name = "w.quant_state.bitsandbytes__fp4";
  return tensors;
}

std::span<const std::byte> bytes(std::string_view text) { return std::as_bytes(std::span(text)); }

}  // namespace

TEST_CASE("a matrix decodes to what the format defines, whatever its shape, block and scales") {
  for (const bool nested : {false, true}) {
    for (const std::size_t block : {32U, 64U, 256U, 4096U}) {
      for (const auto& [rows, columns] : {std::pair<std::size_t, std::size_t>{1, 1}, {3, 5}, {4, 64}, {7, 96}, {40, 513}}) {
        CAPTURE(nested);
        CAPTURE(block);
        CAPTURE(columns);
        const FourBitMatrix matrix(rows, columns, block, nested);
        const auto tensors = matrix.tensors("w");
        Elements elements;
        const Weights<NF4> weights = read(tensors, {rows, columns}, elements);
        CHECK(static_cast<const void*>(weights.codes) == matrix.codes.data());
        CHECK(elements.bytes() == 0);
        CHECK((weights.rows == rows && weights.columns == columns));
        std::vector<float> decoded(rows * columns);
        weights.decode(0, decoded);
        std::size_t different = 0;
        for (std::size_t e = 0; e < decoded.size(); ++e) different += decoded[e] != matrix.element(e) ? 1U : 0U;
        CHECK(different == 0);
      }
    }
  }
}

TEST_CASE("the label of the codes' bytes does not matter, nor does a shape that the state leaves out") {
  FourBitMatrix matrix(6, 8, 32, false);
  for (const Dtype dtype : {Dtype::U8, Dtype::I8, Dtype::F16, Dtype::BF16, Dtype::F32, Dtype::F64}) {
    auto tensors = matrix.tensors("w");
    tensors[0].dtype = dtype;
    tensors[0].shape = {matrix.codes.size() * 8 / bits(dtype)};
    Elements elements;
    CHECK(read(tensors, {6, 8}, elements).loaded());
  }
  matrix.state = R"({"quant_type": "nf4", "blocksize": 32, "dtype": "float16", "shape": null})";
  Elements elements;
  CHECK(read(matrix.tensors("w"), {6, 8}, elements).loaded());
}

TEST_CASE("FP4 has another table, which old releases saved with four decimals") {
  for (const bool nested : {false, true}) {
    FourBitMatrix matrix(6, 16, 32, nested);
    auto tensors = as_fp4(matrix);
    Elements elements;
    const Weights<FP4> weights = read<FP4>(tensors, {6, 16}, elements);
    std::vector<float> decoded(6 * 16);
    weights.decode(0, decoded);
    for (std::size_t e = 0; e < decoded.size(); ++e) {
      const unsigned byte = matrix.codes[e / 2];
      CHECK(decoded[e] == FP4::table[e % 2 == 0 ? byte >> 4U : byte & 15U] * weights.scale(e / 32));
    }
    for (float& value : matrix.map) value = std::round(value * 1e4F) / 1e4F;
    CHECK(read<FP4>(tensors, {6, 16}, elements).loaded());
    matrix.map[2] = 0.667F;
    CHECK(message<format_error>([&] {
            static_cast<void>(read<FP4>(tensors, {6, 16}, elements));
          }).find("w.quant_map: expected") != std::string::npos);
    matrix.state.replace(matrix.state.find("fp4"), 3, "nf4");
    CHECK(message<format_error>([&] {
            static_cast<void>(read<FP4>(tensors, {6, 16}, elements));
          }).find("quant_type: expected \"fp4\", found \"nf4\"") != std::string::npos);
  }
}

TEST_CASE("bytes with the label of a wider type are filled up to whole elements") {
  FourBitMatrix matrix(5, 5, 32, false);  // 25 codes, 13 bytes
  for (const auto& [dtype, size] :
       {std::pair{Dtype::U8, 13U}, {Dtype::I8, 13U}, {Dtype::F16, 14U}, {Dtype::BF16, 14U}, {Dtype::F32, 16U}, {Dtype::F64, 16U}}) {
    CAPTURE(name(dtype));
    matrix.codes.resize(size);
    auto tensors = matrix.tensors("w");
    tensors[0].dtype = dtype;
    tensors[0].shape = {size * 8 / bits(dtype), 1};
    Elements elements;
    CHECK(read(tensors, {5, 5}, elements).loaded());
    matrix.codes.resize(size + bits(dtype) / 8);
    tensors = matrix.tensors("w");
    tensors[0].dtype = dtype;
    tensors[0].shape = {matrix.codes.size() * 8 / bits(dtype)};
    CHECK(message<shape_error>([&] {
            static_cast<void>(read(tensors, {5, 5}, elements));
          }).find("bytes for 25 codes") != std::string::npos);
  }
}

TEST_CASE("what is damaged is named") {
  constexpr float nan = std::numeric_limits<float>::quiet_NaN(), infinity = std::numeric_limits<float>::infinity();
  using Tensors = std::vector<FileTensor>;
  struct Row {
    const char* part;
    std::function<void(FourBitMatrix&)> damage;
    std::function<void(Tensors&)> change = [](Tensors&) {};
  };
  const auto state = [](std::string_view from, std::string_view to) {
    return [=](FourBitMatrix& m) { m.state.replace(m.state.find(from), from.size(), to); };
  };
  const auto nothing = [](FourBitMatrix&) {};
  const auto erase = [](std::string name) {
    return [=](Tensors& t) { std::erase_if(t, [&](const FileTensor& tensor) { return tensor.name == name; }); };
  };
  const auto set = [](std::string name, Dtype dtype, Shape shape) {
    return [=](Tensors& tensors) {
      for (FileTensor& tensor : tensors) {
        if (tensor.name != name) continue;
        tensor.dtype = dtype;
        tensor.shape = shape;
      }
    };
  };
  const Row both[] = {
      {"blocksize: expected a power of two from 32 to 4096", state("size\": 32", "size\": 48")},
      {"blocksize: expected an integer from 32 to 4096, found 16", state("size\": 32", "size\": 16")},
      {"blocksize: expected an integer from 32 to 4096, found 8192", state("size\": 32", "size\": 8192")},
      {"blocksize: expected an integer from 32 to 4096, found 32.0", state("size\": 32", "size\": 32.0")},
      {"blocksize: expected an integer from 32 to 4096, found nothing", state("\"blocksize\": 32, ", "")},
      {"expected a value, found NaN", state("32", "NaN")},
      {"expected ',' or '}', found the end", state("}", "")},
      {"found \"blocksize\" twice", state("{", "{\"blocksize\": 32, ")},
      {"quant_type: expected \"nf4\", found \"fp4\"", state("nf4", "fp4")},
      {"dtype: expected a string", state("\"bfloat16\"", "1")},
      {"w: expected [6, 16], found [16, 6]", state("[6, 16]", "[16, 6]")},
      {"w: expected [6, 16], found [96]", state("[6, 16]", "[96]")},
      {"shape[0]: expected an integer from 1", state("[6, 16]", "[-6, 16]")},
      {"shape[0]: expected an integer from 1", state("[6, 16]", "[0, 16]")},
      {"shape[0]: expected an integer from 1", state("[6, 16]", "[6.0, 16]")},
      {"shape: expected the lengths of a matrix, found []", state("[6, 16]", "[]")},
      {"quant_type: expected a string, found nothing", state("\"quant_type\": \"nf4\", ", "")},
      {"shape[1]: expected an integer from 1", state("[6, 16]", "[6, 9223372036854775807]")},
      {"shape: expected an array", state("[6, 16]", "\"6x16\"")},
      {"w.quant_map: expected finite numbers, found NaN", [=](FourBitMatrix& m) { m.map[3] = nan; }},
      {"w.quant_map: expected -0.3949175 for code 3", [](FourBitMatrix& m) { m.map[3] += 2e-4F; }},
      {"w.quant_map: expected -1 for code 0", [](FourBitMatrix& m) { std::ranges::reverse(m.map); }},
      {"w.quant_map: expected 16 elements of F32, found 16 of I32", nothing, set("w.quant_map", Dtype::I32, {16})},
      {"expected a tensor w.quant_map", nothing, erase("w.quant_map")},
      {"expected a tensor w.absmax", nothing, erase("w.absmax")},
      {"expected a tensor w.absmax, found none", nothing, erase("w.absmax")},
      {"w: expected 48 bytes for 96 codes, found 47", [](FourBitMatrix& m) { m.codes.pop_back(); }},
      {"w: expected codes stored as", nothing, set("w", Dtype::I64, {6})},
      {"w.more: expected a part of a quantised tensor", nothing,
       [](Tensors& t) {
         t.push_back({"w.more", Dtype::U8, {0}, {}});
       }},
      {"expected one quantisation state per tensor", nothing,
       [](Tensors& t) {
         t.push_back({"w.quant_state.bitsandbytes__fp4", Dtype::U8, {0}, {}});
       }},
      {"expected quantisation nf4 or fp4, found int3", nothing, [](Tensors& t) { t[2].name = "w.quant_state.bitsandbytes__int3"; }},
      {"quant_state.bitsandbytes__nf4: expected 2 elements of U8", nothing,
       [](Tensors& t) {
         t[2] = {"w.quant_state.bitsandbytes__nf4", Dtype::I8, {2}, bytes("{}")};
       }},
  };
  const Row plain[] = {
      {"w.absmax: expected finite numbers", [=](FourBitMatrix& m) { m.absmax[2] = nan; }},
      {"w.absmax: expected finite numbers", [=](FourBitMatrix& m) { m.absmax[0] = -infinity; }},
      {"w.absmax: expected 3 elements of F32, found 3 of U8", nothing, set("w.absmax", Dtype::U8, {3})},
      {"w.absmax: expected 3 elements of F32, found 2 of F32", nothing, set("w.absmax", Dtype::F32, {2})},
      {"w.absmax: expected 2 elements of F32, found 3 of F32", state("size\": 32", "size\": 64")},
      {"nested_blocksize: expected nothing", state("}", ", \"nested_blocksize\": 256}")},
      {"expected a tensor nested_absmax beside it", nothing,
       [](Tensors& t) {
         t.push_back({"w.nested_quant_map", Dtype::F32, {0}, {}});
       }},
  };
  const Row nested[] = {
      {"w.nested_absmax: expected finite numbers", [=](FourBitMatrix& m) { m.nested_absmax[0] = infinity; }},
      {"w.nested_quant_map: expected finite numbers", [=](FourBitMatrix& m) { m.nested_map[255] = nan; }},
      {"nested_offset: expected a number in the range of float", state("0.03449999913573265", "1e300")},
      {"expected a value, found Infinity", state("0.03449999913573265", "Infinity")},
      {"nested_offset: expected a number, found nothing", state(", \"nested_offset\": 0.03449999913573265", "")},
      {"nested_dtype: expected \"float32\"", state("float32", "float16")},
      {"nested_blocksize: expected a power of two", state("256", "255")},
      {"w.absmax: expected 3 elements of U8, found 3 of F32", nothing, set("w.absmax", Dtype::F32, {3})},
      {"w.nested_absmax: expected 1 elements of F32, found 2", nothing, set("w.nested_absmax", Dtype::F32, {2})},
      {"w.nested_quant_map: expected 256 elements", nothing, set("w.nested_quant_map", Dtype::F32, {255})},
      {"expected a tensor w.nested_quant_map", nothing, erase("w.nested_quant_map")},
      {"nested_blocksize: expected nothing", nothing, erase("w.nested_absmax")},
  };
  const auto run = [&](std::span<const Row> rows, bool is_nested) {
    for (const Row& row : rows) {
      CAPTURE(row.part);
      CAPTURE(is_nested);
      FourBitMatrix matrix(6, 16, 32, is_nested);
      row.damage(matrix);
      auto tensors = matrix.tensors("w");
      row.change(tensors);
      Elements elements;
      const std::string what = message<error>([&] { static_cast<void>(read(tensors, {6, 16}, elements)); });
      CAPTURE(what);
      CHECK(what.starts_with("file: "));
      CHECK(what.find(row.part) != std::string::npos);
    }
  };
  run(both, false);
  run(both, true);
  run(plain, false);
  run(nested, true);
}

TEST_CASE("a state without a shape cannot ask for more than there is") {
  FourBitMatrix matrix(6, 16, 32, false);
  matrix.state = R"({"quant_type": "nf4", "blocksize": 32, "dtype": "float16"})";
  const auto tensors = matrix.tensors("w");
  constexpr std::size_t huge = std::size_t{1} << 62U;
  for (const Shape& shape : {Shape{6, 17}, {96}, {6, 16, 1}, {0, 16}, {huge, huge}, {huge, 4}, {huge, 1}}) {
    CAPTURE(to_string(shape));
    Elements elements;
    CHECK_THROWS_AS(static_cast<void>(read(tensors, shape, elements)), shape_error);
  }
}
