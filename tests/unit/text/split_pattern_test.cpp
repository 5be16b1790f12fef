// SPDX-License-Identifier: MIT
#include <mllama/text/split_pattern.hpp>

#include <doctest/doctest.h>

#include <string>
#include <vector>

using namespace mllama;

namespace {

constexpr std::string_view llama3 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

std::vector<std::string> split(std::string_view pattern, std::string_view text) {
  const SplitPattern compiled(pattern, "f", "p");
  std::vector<std::string> pieces;
  SplitPattern::Matcher(compiled).for_each_piece(text, [&](std::string_view piece) { pieces.emplace_back(piece); });
  return pieces;
}
using Pieces = std::vector<std::string>;

}  // namespace

TEST_CASE("Llama 3's pattern") {
  CHECK(split(llama3, "I'LL go, it'ſ 12345") == Pieces{"I", "'LL", " go", ",", " it", "'ſ", " ", "123", "45"});
  CHECK(split(llama3, "a  \n\n  b   ") == Pieces{"a", "  \n\n", " ", " b", "   "});
  CHECK(split(llama3, "") == Pieces{});
  CHECK(split(llama3, "!?\r\n\r\n$x") == Pieces{"!?\r\n\r\n", "$x"});
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

TEST_CASE("matching ends") {
  CHECK_THROWS_AS(static_cast<void>(split("(a+)+[bc]", std::string(5000, 'a'))), input_error);
  CHECK_THROWS_AS(static_cast<void>(split("(?:(a|b|ab)*)*[cd]", std::string(5000, 'a'))), input_error);
  CHECK_THROWS_AS(static_cast<void>(split("(?:a|(?R)[bc])+[de]", std::string(20000, 'a'))), input_error);
  for (const char c : {' ', '\n', 'a', '!', '1', '\t'}) {
    const std::string text = std::string(300'000, c) + "x";
    std::string joined;
    for (const std::string& piece : split(llama3, text)) joined += piece;
    CHECK(joined == text);
  }
}
