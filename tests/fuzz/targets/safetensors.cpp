// SPDX-License-Identifier: MIT
// A safetensors file: as it is, or, if the input begins with '{', its header's JSON, a NUL, and what to fill the tensors with.
#include <algorithm>
#include <filesystem>
#include <mllama/io/safetensors.hpp>
#include <mllama/io/safetensors_writer.hpp>
#include <span>

#include "fuzz.hpp"
#include "safetensors_input.hpp"
#include "unit/io/four_bit_matrix.hpp"
#include "unit/io/temporary_folder.hpp"
#include "use_folder.hpp"

using mllama::FileTensor;
using mllama_fuzz::require;
using mllama_fuzz::takes;

namespace {

bool same(const FileTensor& a, const FileTensor& b) {
  return a.name == b.name && a.dtype == b.dtype && a.shape == b.shape && std::ranges::equal(a.bytes, b.bytes);
}

void check_file(const mllama::Safetensors& file, std::size_t size, const std::string& copy) {
  const std::span<const FileTensor> tensors = file.tensors();
  std::size_t bytes = 0;
  for (const FileTensor& tensor : tensors) {
    require(file.find(tensor.name) == &tensor, "a tensor is found by its name");
    require(tensor.bytes.size() == tensor.size() * mllama::bits(tensor.dtype) / 8, "a tensor has the bytes of its shape");
    bytes += tensor.bytes.size();
  }
  require(bytes + 8 <= size, "no byte belongs to two tensors");
  mllama::write_safetensors(copy, tensors, file.metadata());
  const mllama::Safetensors again(copy);
  require(again.metadata() == file.metadata() && std::ranges::equal(again.tensors(), tensors, same),
          "a file that is written is the one that was read");
}

struct Folder {
  mllama_test::TemporaryFolder folder;
  mllama_fuzz::MemoryFile file;

  Folder() { std::filesystem::create_symlink(file.path(), folder / "model.safetensors"); }
};

}  // namespace

std::vector<std::string> mllama_fuzz::seeds() {
  std::vector<std::string> all{
      repository_file("tests/golden/models/one_tile/cases/text_only.safetensors"),
      R"({"__metadata__":{"format":"pt"},"model.a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},)"
      R"("b":{"dtype":"F4","shape":[2],"data_offsets":[24,25]},"c":{"dtype":"BOOL","shape":[],"data_offsets":[25,26]},)"
      R"("language_model.d":{"dtype":"BF16","shape":[0,5],"data_offsets":[26,26]}})"
      "\n\n" +
          std::string("\0\1\2\3\4", 5),
      R"({"model.a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})",
      R"({"a.weight":{"dtype":"I8","shape":[2,3],"data_offsets":[0,6]},"a.SCB":{"dtype":"F32","shape":[2],"data_offsets":[6,14]},)"
      R"("a.weight_format":{"dtype":"U8","shape":[],"data_offsets":[14,15]}})"};
  const mllama_test::TemporaryFolder folder;
  for (const bool nested : {false, true}) {
    mllama::write_safetensors(folder / "x", mllama_test::FourBitMatrix(5, 13, 32, nested).tensors("model.x.weight"));
    all.push_back(folder.read("x"));
    all.push_back(safetensors_input(all.back()));
  }
  return all;
}

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static Folder folder;
  const std::string_view input = mllama_fuzz::text_of(data, size);
  const mllama_fuzz::TwoParts parts(input);
  const std::string file = input.starts_with('{') ? mllama_fuzz::safetensors_file(parts.json, parts.rest) : std::string(input);
  folder.file.write(file);
  takes([&] { check_file(mllama::Safetensors(folder.file.path()), file.size(), folder.folder / "copy"); });
  mllama_fuzz::use_folder(folder.folder.path());
  return 0;
}
