// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <algorithm>
#include <span>
#include <vector>

#include <mllama/io/safetensors.hpp>
#include <mllama/observe/record_files.hpp>
#include <unit/io/temporary_folder.hpp>

using namespace mllama;
using mllama_test::TemporaryFolder;

TEST_CASE("records become one safetensors file, or a folder of NumPy's files") {
  const std::vector<Recorder::Record> records{{"hidden_states.3", {2, 2}, {1, 2, 3, 4}}, {"norm", {1, 3}, {5, 6, 7}}};
  const TemporaryFolder folder;
  write_records(folder / "r.safetensors", records, {{"model", "tiny"}});
  const Safetensors file(folder / "r.safetensors");
  REQUIRE(file.tensors().size() == 2);
  CHECK(file.metadata() == Metadata{{"model", "tiny"}});
  for (const Recorder::Record& record : records) {
    const FileTensor* const found = file.find(record.name);
    REQUIRE(found != nullptr);
    CHECK(found->dtype == Dtype::F32);
    CHECK(found->shape == record.shape);
    CHECK(std::ranges::equal(found->bytes, std::as_bytes(std::span(record.values))));
  }

  write_records_as_npy(folder / "r", records);
  const NpyFile states(folder / "r/hidden_states.3.npy"), norm(folder / "r/norm.npy");
  CHECK(states.shape() == records[0].shape);
  CHECK(std::ranges::equal(states.elements<float>(), records[0].values));
  CHECK(norm.shape() == records[1].shape);
  CHECK(std::ranges::equal(norm.elements<float>(), records[1].values));
  CHECK_THROWS_AS(write_records_as_npy(folder / "r", records), file_error);
  CHECK_THROWS_AS(write_records(folder / "nowhere/r.safetensors", records), file_error);
}
