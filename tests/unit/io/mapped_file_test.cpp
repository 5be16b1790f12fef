// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <mllama/io/mapped_file.hpp>
#include <string>
#include <utility>

#include "temporary_folder.hpp"

using namespace mllama;
using mllama_test::message;

TEST_CASE("a file's bytes are there and stay in place when the object moves") {
  const mllama_test::TemporaryFolder folder;
  MappedFile first(folder.write("a", "some bytes"));
  const auto* const place = first.bytes().data();
  MappedFile second(std::move(first));
  CHECK(second.text() == "some bytes");
  CHECK(second.bytes().data() == place);
  MappedFile third(folder.write("b", "others"));
  third = std::move(second);
  CHECK(third.text() == "some bytes");
  CHECK(third.bytes().data() == place);
}

TEST_CASE("memory that is let go comes back from the file") {
  const mllama_test::TemporaryFolder folder;
  std::string content;
  for (int i = 0; i < 5000; ++i) content += std::to_string(i) + ' ';
  const MappedFile file(folder.write("a", content));
  for (const auto& [first, count] :
       {std::pair<std::size_t, std::size_t>{0, content.size()}, {1, 1}, {4095, 2}, {9000, 5000}, {7, 0}}) {
    MappedFile::forget(file.bytes().subspan(first, count));
    CHECK(file.text() == content);
  }
  MappedFile::forget({});
}

TEST_CASE("an empty file has no bytes") {
  const mllama_test::TemporaryFolder folder;
  CHECK(MappedFile(folder.write("empty", "")).bytes().empty());
}

TEST_CASE("only regular files are mapped, and nothing is waited for") {
  const mllama_test::TemporaryFolder folder;
  CHECK(message<file_error>([&] { MappedFile file(folder.path()); }).ends_with("expected a regular file, found a folder"));
  REQUIRE(::mkfifo((folder / "pipe").c_str(), 0600) == 0);
  CHECK(message<file_error>([&] { MappedFile file(folder / "pipe"); }).ends_with("found a pipe, socket or device"));
  CHECK(message<file_error>([&] { MappedFile file(folder / "none"); }) == folder / "none: cannot open: No such file or directory");
}
