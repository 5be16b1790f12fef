// SPDX-License-Identifier: MIT
#include <mllama/text/split_pattern.hpp>

#include <doctest/doctest.h>

#include <array>
#include <random>
#include <string>
#include <string_view>
#include <vector>

using namespace mllama;
using namespace std::string_view_literals;

namespace {

std::vector<std::string> split(std::string_view pattern, std::string_view text, std::size_t window = 128) {
  const SplitPattern compiled(pattern, "f", "p");
  std::vector<std::string> pieces;
  SplitPattern::Matcher(compiled, window).for_each_piece(text, [&](std::string_view piece) { pieces.emplace_back(piece); });
  return pieces;
}
using Pieces = std::vector<std::string>;

}  // namespace

TEST_CASE("Llama 3's pattern") {
  CHECK(split(llama3_pattern, "I'LL go, it'ſ 12345") == Pieces{"I", "'LL", " go", ",", " it", "'ſ", " ", "123", "45"});
  CHECK(split(llama3_pattern, "a  \n\n  b   ") == Pieces{"a", "  \n\n", " ", " b", "   "});
  CHECK(split(llama3_pattern, "") == Pieces{});
  CHECK(split(llama3_pattern, "!?\r\n\r\n$x") == Pieces{"!?\r\n\r\n", "$x"});
}

TEST_CASE("white space is Unicode's White_Space") {
  const SplitPattern compiled(R"(\s)", "f", "p"), negated(R"([^\S])", "f", "p");
  SplitPattern::Matcher matcher(compiled), negated_matcher(negated);
  std::vector<std::uint32_t> found, found_negated;
  std::string text;
  for (std::uint32_t c = 0; c < 0x110000; ++c) {
    if (c == 0xD800) c = 0xE000;
    text = "a";
    append_utf8(text, c);
    int pieces = 0;
    matcher.for_each_piece(text, [&](std::string_view) { ++pieces; });
    if (pieces == 2) found.push_back(c);
    if (c > 0x3100) continue;
    pieces = 0;
    negated_matcher.for_each_piece(text, [&](std::string_view) { ++pieces; });
    if (pieces == 2) found_negated.push_back(c);
  }
  const std::vector<std::uint32_t> white{0x09,   0x0A,   0x0B,   0x0C,   0x0D,   0x20,   0x85,   0xA0,   0x1680,
                                         0x2000, 0x2001, 0x2002, 0x2003, 0x2004, 0x2005, 0x2006, 0x2007, 0x2008,
                                         0x2009, 0x200A, 0x2028, 0x2029, 0x202F, 0x205F, 0x3000};
  CHECK(found == white);
  CHECK(found_negated == white);
}

TEST_CASE("nothing is dropped: gaps are pieces, empty matches only cut") {
  CHECK(split("b+", "abbbcb") == Pieces{"a", "bbb", "c", "b"});
  CHECK(split("x*", "axxbé") == Pieces{"a", "xx", "b", "é"});
  CHECK(split("(?=b)", "abab") == Pieces{"a", "ba", "b"});
  CHECK(split("z", "abc") == Pieces{"abc"});
  CHECK(split("^b", "a\nb") == Pieces{"a\n", "b"});
  CHECK(split(".+", "a\r\nb") == Pieces{"a\r", "\n", "b"});
}

TEST_CASE("patterns that cannot be used are refused with file and field") {
  for (const char* pattern : {"(", "[", "\\", "\\p{Nonsense}", "\\h", "\\w", "\\b", "\\K", "\\1", "\\C", "[a&&b]", "(*UTF)a",
                              "(((a{1000}){1000}){1000})"}) {
    CAPTURE(pattern);
    CHECK_THROWS_AS(static_cast<void>(SplitPattern(pattern, "f", "p")), format_error);
  }
  CHECK_THROWS_AS(static_cast<void>(SplitPattern(std::string(5000, 'a'), "f", "p")), format_error);
  CHECK_THROWS_WITH_AS(static_cast<void>(SplitPattern("a\\b", "tokenizer.json", "pre_tokenizer.pattern.Regex")),
                       "tokenizer.json: pre_tokenizer.pattern.Regex: the escape \\b is not supported", format_error);
}

TEST_CASE("pieces do not depend on how much a search is shown at first") {
  constexpr std::uint32_t seed = 1;
  CAPTURE(seed);
  std::mt19937 random(seed);
  constexpr std::array<std::string_view, 16> parts{" ",  " ",  "\n", "\r", "\t", "a", "b", "é",
                                                   "日", "😀", "1",  "23", "'s", "!", "x", "\u00A0"};
  for (const std::string_view pattern : {llama3_pattern, gpt2_pattern, R"(\s++$|\p{L}++|\s+(?!\S)|\s)"sv, "a*"sv, "$"sv, "^"sv,
                                         "(?=b)"sv, "(?!a)"sv, "(?<=b)."sv, "(?<!a)b*"sv, "(?<=a\n)x?"sv, "b$"sv, "(?:a|b|ab)*x"sv,
                                         ".*x"sv, ".*?x|b"sv, "(?>a+|b)x?"sv, "(a|b(?1)x)+b|x"sv, "x(?=\\s*$)"sv, "z"sv}) {
    CAPTURE(pattern);
    for (int round = 0; round < 60; ++round) {
      std::string text;
      for (std::size_t i = random() % 30; i != 0; --i) text += parts[random() % parts.size()];
      CAPTURE(text);
      const Pieces expected = split(pattern, text, 1000);
      for (const std::size_t window : {1U, 2U, 3U, 7U, 16U}) {
        CAPTURE(window);
        CHECK(split(pattern, text, window) == expected);
      }
    }
  }
}

TEST_CASE("matching ends") {
  CHECK_THROWS_AS(static_cast<void>(split("(a+)+[bc]", std::string(5000, 'a'))), input_error);
  CHECK_THROWS_AS(static_cast<void>(split("(?:(a|b|ab)*)*[cd]", std::string(5000, 'a'))), input_error);
  CHECK_THROWS_AS(static_cast<void>(split("(?:a|(?R)[bc])+[de]", std::string(20000, 'a'))), input_error);
  // Each search takes few steps, but passes over the rest of the text in one of them, in vain.
  for (const char* const pattern : {"[\\s\\S]*x|.", "a*+x|.", "[\\s\\S]*[\\s\\S]*x|.", "(?=a*)a", "(?:(?=a*+)a)*x|."}) {
    CAPTURE(pattern);
    CHECK_THROWS_AS(static_cast<void>(split(pattern, std::string(1'000'000, 'a'))), error);
  }
  for (const char c : {' ', '\n', 'a', '!', '1', '\t'}) {
    std::string text(300'000, c);
    text += 'x';
    std::string joined;
    for (const std::string& piece : split(llama3_pattern, text)) joined += piece;
    CHECK(joined == text);
  }
}
