// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <filesystem>
#include <numeric>
#include <set>
#include <string>
#include <vector>

#include <mllama/io/pack.hpp>
#include <mllama/io/safetensors_writer.hpp>

#include "four_bit_matrix.hpp"
#include "temporary_folder.hpp"

using namespace mllama;
using mllama_test::FourBitMatrix;
using mllama_test::message;
using mllama_test::TemporaryFolder;

namespace {

void write(const TemporaryFolder& folder, const std::vector<FileTensor>& tensors) {
  write_safetensors(folder / "model.safetensors", tensors, {{"format", "pt"}});
}

RepackingReport repack(const std::string& from, const std::string& to, Repacking direction) {
  std::size_t done = 0;
  const auto report = repack_folder(from, to, direction, [&] { ++done; });
  CHECK(done > 0);
  return report;
}

}  // namespace

TEST_CASE("every byte has a place of its own, and the first ones lie as the kernel reads them") {
  using Layout = Packed<NF4>;
  std::set<std::size_t> places;
  for (std::size_t row = 0; row < 24; ++row) {
    for (std::size_t byte = 0; byte < 32; ++byte) places.insert(Layout::place(row, byte, 32));
  }
  CHECK(places.size() == 24 * 32);
  CHECK(*places.rbegin() == 24 * 32 - 1);
  CHECK(Layout::place(0, 1, 32) == 4);
  CHECK(Layout::place(1, 0, 32) == 1);
  CHECK(Layout::place(4, 0, 32) == 16);
  CHECK(Layout::place(0, 4, 32) == 32);
  CHECK(Layout::place(8, 0, 32) == 256);

  std::vector<std::uint8_t> codes(24 * 32), packed(codes.size()), back(codes.size());
  std::iota(codes.begin(), codes.end(), std::uint8_t{0});
  pack_codes<Layout>(codes.data(), 24, 32, packed.data());
  unpack_codes<Layout>(packed.data(), 24, 32, back.data());
  CHECK(back == codes);
  CHECK(packed != codes);
}

TEST_CASE("a folder is packed, loads as it is, and is unpacked to the same bytes") {
  const TemporaryFolder folder;
  const FourBitMatrix nested(16, 128, 64, true, 1), plain(8, 64, 64, false, 2), odd(12, 64, 64, true, 3),
      spans(8, 96, 64, false, 4);
  const std::vector<float> norm(5, 1.5F);
  std::vector<FileTensor> tensors{{"model.norm.weight", Dtype::F32, {5}, std::as_bytes(std::span(norm))}};
  for (const auto& [matrix, name] :
       {std::pair{&nested, "model.a.weight"}, {&plain, "model.b.weight"}, {&odd, "c.weight"}, {&spans, "d.weight"}}) {
    for (FileTensor& tensor : matrix->tensors(name)) tensors.push_back(std::move(tensor));
  }
  write(folder, tensors);
  folder.write("config.json", "{}");
  folder.write("tokenizer.json", "words");

  const auto report = repack(folder.path(), folder / "packed", Repacking::pack);
  CHECK(report.matrices == 2);
  CHECK(report.left == 2);
  Checkpoint packed = Checkpoint::open(folder / "packed");
  const auto values = [&](const FourBitMatrix& matrix, std::string_view name, bool is_packed) {
    Weights<Stored> weights;
    packed.bind(weights, name, Shape{matrix.rows, matrix.columns});
    CHECK(std::holds_alternative<Weights<Packed<NF4>>>(weights.stored) == is_packed);
    std::vector<float> found(matrix.rows * matrix.columns);
    weights.decode(0, found);
    for (std::size_t e = 0; e < found.size(); ++e) CHECK(found[e] == matrix.element(e));
  };
  values(nested, "a.weight", true);
  values(plain, "b.weight", true);
  values(odd, "c.weight", false);
  values(spans, "d.weight", false);
  CHECK(packed.owned_bytes() == 0);
  CHECK(folder.read("packed/tokenizer.json") == "words");
  CHECK(folder.read("packed/model.safetensors") != folder.read("model.safetensors"));
  CHECK(repack(folder / "packed", folder / "again", Repacking::pack).matrices == 0);

  CHECK(repack(folder / "packed", folder / "back", Repacking::unpack).matrices == 2);
  CHECK(folder.read("back/model.safetensors") == folder.read("model.safetensors"));
  CHECK(folder.read("back/config.json") == folder.read("config.json"));
}

TEST_CASE("files that transformers wrote come back byte for byte") {
  for (const std::string model : {"nf4_nested", "nf4_plain", "nf4_mixed", "int8", "bf16"}) {
    CAPTURE(model);
    const TemporaryFolder folder;
    std::filesystem::copy(MLLAMA_TEST_DATA "/golden/models/" + model, folder / "original");
    const auto report = repack(folder / "original", folder / "packed", Repacking::pack);
    CHECK((report.matrices > 0) == model.starts_with("nf4"));
    repack(folder / "packed", folder / "back", Repacking::unpack);
    CHECK(folder.read("back/model.safetensors") == folder.read("original/model.safetensors"));
  }
}

TEST_CASE("a packed matrix whose rows are not in eights is refused") {
  const TemporaryFolder folder;
  const FourBitMatrix matrix(12, 64, 64, false);
  std::vector<FileTensor> tensors;
  for (FileTensor tensor : matrix.tensors("a.weight")) {
    if (tensor.name.ends_with("nf4")) tensor.name = "a.weight.quant_state.mllama__nf4x8";
    tensors.push_back(std::move(tensor));
  }
  const std::string file = folder / "model.safetensors: ";
  const auto what = [&]<class Error>(std::type_identity<Error>) {
    write(folder, tensors);
    Checkpoint checkpoint = Checkpoint::open(folder.path());
    return message<Error>([&] {
      Weights<Stored> weights;
      checkpoint.bind(weights, "a.weight", Shape{12, 64});
    });
  };
  CHECK(what(std::type_identity<shape_error>{}) ==
        file + "a.weight: expected rows in groups of 8 and whole blocks of 64, found [12, 64]");
  for (FileTensor& tensor : tensors) {
    if (tensor.name.ends_with("nf4x8")) tensor.name = "a.weight.quant_state.mllama__nf4x16";
  }
  CHECK(what(std::type_identity<format_error>{}) ==
        file + "a.weight.quant_state.mllama__nf4x16: expected layout nf4x8, found nf4x16");
}
