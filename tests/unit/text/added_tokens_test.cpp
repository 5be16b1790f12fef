// SPDX-License-Identifier: MIT
#include <mllama/text/added_tokens.hpp>

#include <doctest/doctest.h>

#include <random>
#include <string>

using namespace mllama;

namespace {

std::string marked(const AddedTokens& tokens, std::string_view text) {
  std::string out;
  tokens.split(
      text, [&](std::int32_t id) { out += "[" + std::to_string(id) + "]"; }, [&](std::string_view rest) { out += rest; });
  return out;
}

}  // namespace

TEST_CASE("leftmost, then longest") {
  const AddedTokens tokens({{"<|a|>", 1}, {"<|a|>b", 2}, {"a|>bc", 3}, {"é", 4}, {"<", 5}});
  CHECK(marked(tokens, "<|a|>bc") == "[2]c");
  CHECK(marked(tokens, "<|a|>") == "[1]");
  CHECK(marked(tokens, "xa|>bcé") == "x[3][4]");
  CHECK(marked(tokens, "<|a|") == "[5]|a|");
  CHECK(marked(tokens, "<<|a|>x") == "[5][1]x");
  CHECK(marked(tokens, "") == "");
  CHECK(marked(AddedTokens(), "abc") == "abc");
  CHECK(tokens.find("<|a|>b") == 2);
  CHECK_FALSE(tokens.find("<|a"));
  CHECK_FALSE(AddedTokens().find(""));
}

TEST_CASE("as trying every token everywhere") {
  const std::uint32_t seed = 4711;
  INFO("seed ", seed);
  std::mt19937 random(seed);
  const auto word = [&](std::size_t least, std::size_t most) {
    std::string out(least + random() % (most - least + 1), ' ');
    for (char& c : out) c = "ab\xC3"[random() % 3];
    return out;
  };
  for (int round = 0; round < 200; ++round) {
    std::vector<AddedTokens::Token> list;
    for (int i = 0; i < 6; ++i) {
      std::string content = word(1, 5);
      bool known = false;
      for (const auto& token : list) known = known || token.content == content;
      if (!known) list.push_back({content, i});
    }
    const std::string text = word(0, 40);
    std::string expected;
    for (std::size_t at = 0; at < text.size();) {
      const AddedTokens::Token* best = nullptr;
      for (const auto& token : list)
        if (text.compare(at, token.content.size(), token.content) == 0 &&
            (best == nullptr || token.content.size() > best->content.size()))
          best = &token;
      expected += best != nullptr ? "[" + std::to_string(best->id) + "]" : std::string(1, text[at]);
      at += best != nullptr ? best->content.size() : 1;
    }
    CHECK(marked(AddedTokens(list), text) == expected);
  }
}
