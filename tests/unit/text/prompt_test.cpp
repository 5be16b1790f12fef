// SPDX-License-Identifier: MIT
#include <mllama/core/json.hpp>
#include <mllama/text/prompt.hpp>

#include <doctest/doctest.h>

#include <fstream>
#include <string>

using namespace mllama;

TEST_CASE("begin of text goes after leading images, once") {
  CHECK(with_begin_of_text("Hi") == "<|begin_of_text|>Hi");
  CHECK(with_begin_of_text("") == "<|begin_of_text|>");
  CHECK(with_begin_of_text("<|image|>Hi") == "<|image|><|begin_of_text|>Hi");
  CHECK(with_begin_of_text("<|image|><|image|>Hi<|image|>") == "<|image|><|image|><|begin_of_text|>Hi<|image|>");
  CHECK(with_begin_of_text(" <|image|>Hi") == "<|begin_of_text|> <|image|>Hi");
  CHECK(with_begin_of_text("Hi <|begin_of_text|>") == "Hi <|begin_of_text|>");
  CHECK(with_begin_of_text("<|image|>") == "<|image|><|begin_of_text|>");
}

TEST_CASE("as MllamaProcessor does") {
  const std::string path = MLLAMA_TEST_DATA "/golden/processor/bos.jsonl";
  std::ifstream file(path);
  int count = 0;
  for (std::string line; std::getline(file, line); ++count) {
    const JsonField row = parse_json(line, path);
    CHECK(with_begin_of_text(row["text"].as<std::string>()) == row["with_bos"].as<std::string>());
  }
  CHECK(count > 10);
}

TEST_CASE("images are counted") {
  CHECK(count_images("") == 0);
  CHECK(count_images("<|image|><|image|> a <|image|>") == 3);
  CHECK(count_images("<|image|<|image|>>") == 1);
}
