// SPDX-License-Identifier: MIT
// model.safetensors.index.json of a folder with these shards: a to d, of which b and c share a matrix of 4 bits, and d has another
// tensor of a canonical name in a; `broken` is no safetensors file.
#include <array>
#include <filesystem>
#include <mllama/io/safetensors.hpp>
#include <mllama/io/safetensors_writer.hpp>
#include <span>

#include "fuzz.hpp"
#include "unit/io/four_bit_matrix.hpp"
#include "unit/io/temporary_folder.hpp"
#include "use_folder.hpp"

using mllama::Dtype;
using mllama::FileTensor;

namespace {

struct Folder {
  mllama_test::TemporaryFolder folder;
  mllama_fuzz::MemoryFile index;

  Folder() {
    static constexpr std::array<float, 6> numbers{1, -2, 3, -4, 5, 6};
    const auto tensor = [](const char* name, Dtype dtype, mllama::Shape shape, std::size_t bytes) {
      return FileTensor{name, dtype, std::move(shape), std::as_bytes(std::span(numbers)).first(bytes)};
    };
    const auto shard = [&](const char* name, std::span<const FileTensor> tensors) {
      mllama::write_safetensors(folder / name, tensors);
    };
    shard("a", std::array{tensor("model.m.weight", Dtype::F32, {2, 3}, 24), tensor("n.weight", Dtype::BF16, {3}, 6),
                          tensor("i.weight", Dtype::I8, {2, 3}, 6), tensor("i.SCB", Dtype::F32, {2}, 8)});
    const mllama_test::FourBitMatrix matrix(3, 21, 32, true);
    const std::vector<FileTensor> parts = matrix.tensors("q.weight");
    shard("b", std::span(parts).first(3));
    shard("c", std::span(parts).subspan(3));
    shard("d", std::array{tensor("language_model.model.m.weight", Dtype::F16, {3, 2}, 12)});
    folder.write("broken", "no shard");
    std::filesystem::create_symlink(index.path(), folder / "model.safetensors.index.json");
  }
};

}  // namespace

std::vector<std::string> mllama_fuzz::seeds() {
  return {
      R"({"weight_map":{"model.m.weight":"a","n.weight":"a","i.weight":"a","i.SCB":"a"}})",
      R"({"metadata":{"total_size":1},"weight_map":{"i.SCB":"a","i.weight":"a","model.m.weight":"a","n.weight":"a","q.weight":"b",)"
      R"("q.weight.quant_map":"b","q.weight.quant_state.bitsandbytes__nf4":"b","q.weight.absmax":"c",)"
      R"("q.weight.nested_absmax":"c","q.weight.nested_quant_map":"c"}})",
      R"({"weight_map":{"language_model.model.m.weight":"d","model.m.weight":"a","n.weight":"a","i.weight":"a","i.SCB":"a"}})",
      R"({"weight_map":{"x":"broken"}})",
      R"({"weight_map":{}})",
      repository_file("tests/golden/models/ratios/model.safetensors.index.json"),
  };
}

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static Folder folder;
  folder.index.write(mllama_fuzz::text_of(data, size));
  mllama_fuzz::use_folder(folder.folder.path());
  return 0;
}
