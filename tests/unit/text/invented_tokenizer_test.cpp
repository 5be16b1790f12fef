// SPDX-License-Identifier: MIT
#include <mllama/text/invented_tokenizer.hpp>

#include <doctest/doctest.h>

#include <optional>
#include <string>
#include <vector>

#include <mllama/text/tokenizer.hpp>

using namespace mllama;

namespace {
const auto llama = *invented_vocabulary(128256, 128256, 128004);
}

TEST_CASE("the ids of Llama 3, and of Pocket") {
  const Tokenizer large = Tokenizer::from_json(invented_tokenizer(llama));
  CHECK(large.size() == 128257);
  CHECK(large.token_id("<|begin_of_text|>") == 128000);
  CHECK(large.token_id("<|finetune_right_pad_id|>") == 128004);
  CHECK(large.token_id("<|eot_id|>") == 128009);
  CHECK(large.token_id("<|reserved_special_token_2|>") == 128011);
  CHECK(large.token_id("<|reserved_special_token_246|>") == 128255);
  CHECK(large.token_id("<|image|>") == 128256);
  CHECK(large.is_special(128256));
  CHECK(large.encode("!", {.add_special_tokens = true}) == std::vector<std::int32_t>{128000, 0});
  for (std::int32_t id = 0; id < 128257; ++id) CHECK_NOTHROW(static_cast<void>(large.id_to_piece(id)));

  const auto pocket = invented_vocabulary(640, 640, 628);
  REQUIRE(pocket);
  const Tokenizer small = Tokenizer::from_json(invented_tokenizer(*pocket)),
                  original = Tokenizer::from_file(MLLAMA_POCKET "/model/tokenizer.json");
  CHECK(small.size() == original.size());
  for (std::int32_t id = 624; id <= 640; ++id) {
    CHECK(small.id_to_piece(id) == original.id_to_piece(id));
    CHECK(small.is_special(id));
  }
}

TEST_CASE("any text comes back, and words are one token with and without the short cut for whole ones") {
  const std::string text = invented_tokenizer(llama);
  std::string merged = text;
  const std::string_view shortcut = "\"ignore_merges\": true";
  merged.replace(merged.find(shortcut), shortcut.size(), "\"ignore_merges\": false");
  for (const std::string& json : {text, merged}) {
    const Tokenizer tokenizer = Tokenizer::from_json(json);
    for (std::int32_t id = 256; id < 128000; id += 97) {
      CAPTURE(id);
      CHECK(tokenizer.encode(tokenizer.id_to_piece(id)) == std::vector{id});
    }
    const std::string sentence = "What is in the picture?\n\n  tanaso 12 naïve 日本語 \xF0\x9F\x98\x80\t";
    CHECK(tokenizer.decode(tokenizer.encode(sentence)) == sentence);
    CHECK(tokenizer.encode(" tanata tanata").size() == 2);
  }
}

TEST_CASE("which vocabularies have room for bytes and special tokens") {
  CHECK(invented_vocabulary(128256, 128256, std::nullopt)->ordinary == 128240);
  CHECK(invented_vocabulary(300, 299, 260)->ordinary == 256);
  const Tokenizer tokenizer = Tokenizer::from_json(invented_tokenizer(*invented_vocabulary(300, 299, 260)));
  CHECK(tokenizer.token_id("<|image|>") == 299);
  CHECK(tokenizer.size() == 300);
  CHECK(invented_vocabulary(267, 267, 260));
  CHECK_FALSE(invented_vocabulary(267, 267, 261));
  CHECK_FALSE(invented_vocabulary(266, 266, 260));
  CHECK_FALSE(invented_vocabulary(99, 98, std::nullopt));
  CHECK_FALSE(invented_vocabulary(1000, 500, std::nullopt));
  CHECK_FALSE(invented_vocabulary(1000, 1000, 0));
}
