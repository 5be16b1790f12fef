// SPDX-License-Identifier: MIT
#include <mllama/text/pattern.hpp>

#include <doctest/doctest.h>

#include <string>

using namespace mllama;

namespace {

bool matches(std::string_view pattern, std::string_view text) {
  PatternWork work;
  return Pattern(pattern, "f", "p").matches(text, work);
}

}  // namespace

TEST_CASE("patterns of Python's at the beginning of a text") {
  CHECK(matches("a+b", "aab"));
  CHECK(matches("a+b", "abc"));
  CHECK_FALSE(matches("b", "ab"));
  CHECK(matches("", ""));
  CHECK(matches("(.*\\.)?(q_proj)$", "layers.0.q_proj"));
  CHECK_FALSE(matches("(.*\\.)?(q_proj)$", "layers.0.xq_proj"));
  CHECK(matches("(?P<kind>up|down)_proj$", "down_proj"));
  CHECK(matches("\\w\\d\\s\\x41\\b", "é3 A"));
  CHECK(matches("é", "é"));
  CHECK_FALSE(matches("a.b", "a\nb"));
}

TEST_CASE("what cannot be used is refused with file and field") {
  for (const char* pattern : {"(", "[", "\\", "\\h", "\\v", "\\K", "\\1", "\\C", "\\p{L}", "(*UTF)a", "(*LIMIT_MATCH=9)a", "\xff",
                              "(((a{1000}){1000}){1000})"}) {
    CAPTURE(pattern);
    CHECK_THROWS_AS(static_cast<void>(matches(pattern, "")), format_error);
  }
  CHECK_THROWS_AS(static_cast<void>(matches(std::string(4097, 'a'), "")), format_error);
  CHECK_THROWS_WITH_AS(static_cast<void>(Pattern("a\\K", "config.json", "rank_pattern")),
                       "config.json: rank_pattern: the escape \\K is not supported", format_error);
}

TEST_CASE("matching ends") {
  const std::string many(5000, 'a');
  for (const char* pattern : {"(a+)+[bc]", "(?:(a|b|ab)*)*[cd]", "(?:a|(?R)[bc])+[de]", "(?R)"}) {
    CAPTURE(pattern);
    CHECK_THROWS_AS(static_cast<void>(matches(pattern, many)), format_error);
  }

  // Many patterns, each within its limit.
  const Pattern fast("a+b", "f", "p"), slow("(a+)+[bc]", "f", "p");
  PatternWork work{.steps_left = 20'000};
  for (int i = 0; i < 3; ++i) CHECK(fast.matches("aab", work));
  CHECK(work.steps_left == 17'000);
  CHECK_FALSE(slow.matches("aaaaaaaaaaa", work));
  CHECK(work.steps_left == 6'000);
  CHECK_THROWS_WITH_AS(static_cast<void>(slow.matches("aaaaaaaaaaa", work)),
                       "f: p: all patterns of the file together take too many steps", format_error);
}
