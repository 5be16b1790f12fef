// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <mllama/io/output_file.hpp>
#include <string_view>

#include "temporary_folder.hpp"

using namespace mllama;
using mllama_test::message;

namespace {
std::span<const std::byte> bytes(std::string_view text) { return std::as_bytes(std::span(text)); }
}  // namespace

TEST_CASE("a file appears complete or not at all") {
  const mllama_test::TemporaryFolder folder;
  {
    OutputFile file(folder / "a");
    file.write(bytes("one, "));
    file.write(bytes("two"));
    CHECK_FALSE(detail::exists(folder / "a"));
    file.commit();
  }
  CHECK(folder.read("a") == "one, two");
  CHECK(folder.files() == 1);
  {
    OutputFile file(folder / "a");
    file.write(bytes("never finished"));
  }
  CHECK(folder.read("a") == "one, two");
  CHECK(folder.files() == 1);
  {
    OutputFile file(folder / "a");
    file.write(bytes("three"));
    file.commit();
  }
  CHECK(folder.read("a") == "three");
}

TEST_CASE("what cannot be written is named and leaves nothing") {
  const mllama_test::TemporaryFolder folder;
  const std::string inside = folder / "no/such/folder";
  CHECK(message<file_error>([&] { OutputFile file(inside); }) == inside + ": cannot write: No such file or directory");
  std::filesystem::create_directory(folder / "taken");
  CHECK(message<file_error>([&] {
          OutputFile file(folder / "taken");
          file.commit();
        }).starts_with(folder / "taken: cannot write: "));
  CHECK(folder.files() == 1);
}
