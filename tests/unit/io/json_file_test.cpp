// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <mllama/io/json_file.hpp>
#include <utility>

#include "temporary_folder.hpp"

using namespace mllama;
using mllama_test::message;

TEST_CASE("files are read or named") {
  const mllama_test::TemporaryFolder folder;
  JsonFile file(folder.write("a.json", "{\"a\": 1}"));
  const JsonFile moved = std::move(file);
  CHECK(moved.root()["a"].as<int>() == 1);
  CHECK(message<file_error>([&] { JsonFile(folder / "none.json"); }).starts_with(folder / "none.json: cannot open"));
  CHECK(message<format_error>([&] {
          JsonFile(folder.write("empty.json", ""));
        }).ends_with("empty.json: byte 0: expected a value, found the end of the text"));
}
