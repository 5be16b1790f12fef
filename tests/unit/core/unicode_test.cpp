// SPDX-License-Identifier: MIT
#include <mllama/core/unicode.hpp>

#include <doctest/doctest.h>

#include <string>

using namespace mllama;
using Kind = CodePoint::Kind;

TEST_CASE("every code point survives UTF-8, and no surrogate is one") {
  std::string text;
  for (std::uint32_t c = 0; c < 0x110000; ++c) {
    if (c == 0xD800) c = 0xE000;
    text.clear();
    append_utf8(text, c);
    const CodePoint read = code_point_at(text, 0);
    const bool right = read.kind == Kind::valid && read.value == c && read.length == text.size();
    if (!right) FAIL("U+", c);
    for (std::size_t cut = 1; cut < text.size(); ++cut)
      if (code_point_at(std::string_view(text).substr(0, cut), 0).kind != Kind::cut) FAIL("cut U+", c);
  }
}

TEST_CASE("ill-formed sequences end where the Unicode Standard says") {
  // Table 3-8 and its neighbours: E.g. F1 80 80 41 is one U+FFFD and an A, ED A0 80 is three.
  const std::string r(replacement_character);
  CHECK(to_valid_utf8("\x61\xF1\x80\x80\xE1\x80\xC2\x62\x80\x63\x80\xBF\x64") == "a" + r + r + r + "b" + r + "c" + r + r + "d");
  CHECK(to_valid_utf8("\xED\xA0\x80") == r + r + r);
  CHECK(to_valid_utf8("\xC0\xAF") == r + r);
  CHECK(to_valid_utf8("\xE0\x80\xAF") == r + r + r);
  CHECK(to_valid_utf8("\xF4\x91\x92\x93\xFF\x41\x80\x42") == r + r + r + r + r + "A" + r + "B");
  CHECK(to_valid_utf8("\xF0\x9F\x98") == r);
  CHECK(to_valid_utf8("plain text, quite long, and an é") == "plain text, quite long, and an é");
  CHECK(to_valid_utf8("") == "");
}

TEST_CASE("the valid prefix is found wherever it ends") {
  for (std::size_t length = 0; length < 40; ++length) {
    CHECK(valid_utf8_length(std::string(length, 'a')) == length);
    CHECK(valid_utf8_length(std::string(length, 'a') + "\xFF" + std::string(20, 'b')) == length);
    CHECK(valid_utf8_length(std::string(length, 'a') + "\xE2\x82") == length);
  }
}

TEST_CASE("trim strips what Python strips") {
  CHECK(trim(" \t\n\v\f\r\x1C\x1D\x1E\x1F"
             "a b"
             "\u0085\u00A0\u1680\u2000\u200A\u2028\u2029\u202F\u205F\u3000") == "a b");
  CHECK(trim("\u200Ba\u180E") == "\u200Ba\u180E");
  CHECK(trim("\u3000") == "");
  CHECK(trim("") == "");
  CHECK(trim("\x80 \x80") == "\x80 \x80");
  CHECK(trim(" \xE3\x80") == "\xE3\x80");
}
