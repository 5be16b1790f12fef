// SPDX-License-Identifier: MIT
#include <mllama/text/prompt.hpp>

#include <doctest/doctest.h>

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

TEST_CASE("images are counted") {
  CHECK(count_images("") == 0);
  CHECK(count_images("<|image|><|image|> a <|image|>") == 3);
  CHECK(count_images("<|image|<|image|>>") == 1);
}
