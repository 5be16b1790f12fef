// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <string>

#include <mllama/core/check.hpp>

using namespace mllama;

TEST_CASE("concat writes text, numbers and truth values") {
  CHECK(concat("a", 'b', std::string("c"), 12, -3, 2.5, 1e-5, true, std::size_t{7}) == "abc12-32.51e-05true7");
}

TEST_CASE("a message names file, field, expected and found in one line") {
  const Fault all{
      .file = "model/config.json", .field = "hidden_size", .expected = "4096", .found = "4097", .note = "another model"};
  CHECK(std::string(config_error(all).what()) == "model/config.json: hidden_size: expected 4096, found 4097: another model");
  CHECK(std::string(error("a sentence").what()) == "a sentence");
  CHECK(std::string(input_error(Fault{.field = "top_p", .found = "2"}).what()) == "top_p: found 2");
  CHECK(config_error(all).fault().found == "4097");
}

TEST_CASE("bytes of hostile files cannot break the line, steer the terminal, or flood it") {
  const std::string hostile = "a\nb\x1b[31m" + std::string(10000, 'x');
  const std::string message = format_error(Fault{.file = hostile}).what();
  CHECK(message.starts_with("a\\x0ab\\x1b[31mxxx"));
  CHECK(message.find('\n') == message.npos);
  CHECK(message.size() < 600);
}

TEST_CASE("check builds its fault only when it is needed") {
  bool built = false;
  const auto fault = [&] {
    built = true;
    return Fault{.field = "x"};
  };
  check(true, fault);
  CHECK_FALSE(built);
  CHECK_THROWS_AS(check(false, fault), input_error);
  CHECK_THROWS_AS(check<shape_error>(false, fault), shape_error);
  CHECK_THROWS_AS(check(false, fault), error);
}
