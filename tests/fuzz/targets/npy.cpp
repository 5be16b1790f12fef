// SPDX-License-Identifier: MIT
// An .npy file.
#include <cstring>
#include <mllama/io/npy.hpp>
#include <numeric>

#include "fuzz.hpp"
#include "unit/io/temporary_folder.hpp"

using mllama_fuzz::require;
using mllama_fuzz::takes;

std::vector<std::string> mllama_fuzz::seeds() {
  const mllama_test::TemporaryFolder folder;
  std::vector<std::string> all;
  const std::vector<float> numbers{1, 2, 3, 4, 5, 6};
  const std::vector<std::vector<std::size_t>> shapes{{6}, {2, 3}, {1, 1, 6, 1}};
  for (const auto& shape : shapes) {
    mllama::write_npy<float>(folder / "x", numbers, shape);
    all.push_back(folder.read("x"));
  }
  mllama::write_npy<std::int64_t>(folder / "x", {}, std::vector<std::size_t>{0, 9});
  all.push_back(folder.read("x"));
  const std::string_view text = R"({"shape":(),'descr':'|u1', "fortran_order" : False})";
  all.push_back(mllama::concat("\x93NUMPY", std::string_view("\2\0\x33\0\0\0", 6), text, "x"));
  return all;
}

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static mllama_fuzz::MemoryFile memory;
  static mllama_test::TemporaryFolder folder;
  memory.write({reinterpret_cast<const char*>(data), size});
  takes([&] {
    const mllama::NpyFile file(memory.path());
    const auto bytes = file.bytes();
    unsigned sum = 0;
    for (const std::byte byte : bytes) sum += std::to_integer<unsigned>(byte);
    require(sum <= 255U * size, "all bytes can be read");
    const auto& shape = file.shape();
    const std::size_t count = std::accumulate(shape.begin(), shape.end(), std::size_t{1}, std::multiplies<>());
    require(count <= bytes.size() || bytes.empty(), "every element has its bytes");
    const auto elements = file.elements<float>();
    require(elements.size() == count, "an array has the elements of its shape");
    mllama::write_npy<float>(folder / "copy", elements, shape);
    const mllama::NpyFile again(folder / "copy");
    require(again.shape() == shape && (bytes.empty() || std::memcmp(again.bytes().data(), bytes.data(), bytes.size()) == 0),
            "an array that is written is the one that was read");
  });
  return 0;
}
