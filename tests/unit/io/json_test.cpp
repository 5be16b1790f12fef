// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <mllama/io/json.hpp>

#include "temporary_folder.hpp"

using namespace mllama;
using mllama_test::message;

TEST_CASE("a document is read as it is written") {
  const json document = parse_json(R"({"a": [1, -2, 2.5, true, null, "é", {}], "b": {"c": 18446744073709551615}})", "test");
  CHECK(document["a"][1] == -2);
  CHECK(document["a"][2] == 2.5);
  CHECK(document["a"][4].is_null());
  CHECK(document["a"][5] == "é");
  CHECK(document["a"].size() == 7);
  CHECK(document["b"]["c"] == 18446744073709551615U);
  CHECK(parse_json(" 7 ", "test") == 7);
}

TEST_CASE("what is no JSON is a format_error that names file and byte") {
  using namespace std::string_view_literals;
  struct Row {
    std::string_view text, part;
  };
  for (const auto& [text, part] : {
           Row{"", "at byte 1"},
           {"[1, 2", "at byte 6"},
           {"{\"a\": 1} x", "at byte 10"},
           {"[NaN]", "at byte 2"},
           {"[Infinity]", "at byte 2"},
           {"[-Infinity]", "at byte 3"},
           {"[1e999]", "at byte 6"},
           {"[01]", "at byte 3"},
           {"[1,]", "at byte 4"},
           {"{'a': 1}", "at byte 2"},
           {"[1] // comment", "at byte 5"},
           {"[\"\xff\"]", "UTF-8"},
           {"[\"\\ud800\"]", "surrogate"},
           {"[\"\t\"]", "control character"},
           {"[1]\0[2]"sv, "at byte 3: NUL"},
           {"{\"a\": 1, \"b\": {\"c\": 1, \"c\": 2}}", "c: the key occurs twice"},
       }) {
    CAPTURE(text);
    const std::string what = message<format_error>([&] { static_cast<void>(parse_json(text, "some.json")); });
    CHECK(what.starts_with("some.json: "));
    CHECK(what.find(part) != std::string::npos);
  }
}

TEST_CASE("limits hold") {
  const std::string deep(100000, '[');
  CHECK(message<format_error>([&] { static_cast<void>(parse_json(deep, "f")); }) == "f: JSON is nested deeper than 64 levels");
  CHECK_NOTHROW(static_cast<void>(parse_json("[[[]]]", "f", {.depth = 3})));
  CHECK_THROWS_AS(static_cast<void>(parse_json("[[[]]]", "f", {.depth = 2})), format_error);
  CHECK_NOTHROW(static_cast<void>(parse_json("[1, 2, 3]", "f", {.values = 4})));
  CHECK_THROWS_AS(static_cast<void>(parse_json("[1, 2, 3]", "f", {.values = 3})), format_error);
  CHECK_THROWS_AS(static_cast<void>(parse_json("[1, 2, 3]", "f", {.bytes = 8})), format_error);
}

TEST_CASE("every cut of a document is an error") {
  const std::string text = R"({"a": [1, -2.5e3, {"b": "é\n\u00e9"}], "c": {"d": null, "e": false}})";
  for (std::size_t length = 0; length < text.size(); ++length) {
    CAPTURE(length);
    CHECK_THROWS_AS(static_cast<void>(parse_json(std::string_view(text).substr(0, length), "f")), format_error);
  }
}

TEST_CASE("fields are typed and name themselves") {
  const json document = parse_json(
      R"({"v": {"i": 300, "n": -1, "f": 2.0, "big": 4294967296, "s": "x", "b": true, "z": null, "l": [1, "two"], "h": 1e300}})",
      "c.json");
  const JsonField field = JsonField(document, "c.json")["v"];
  CHECK(field["i"].as<int>() == 300);
  CHECK(field["n"].as<int>() == -1);
  CHECK(field["i"].as<double>() == 300);
  CHECK(field["f"].as<float>() == 2);
  CHECK(field["s"].as<std::string>() == "x");
  CHECK(field["b"].as<bool>());
  CHECK(field["big"].as<std::int64_t>() == 4294967296);
  CHECK(field["l"].elements()[0].as<int>() == 1);
  CHECK(field["absent"].as<int>(5) == 5);
  CHECK(field["z"].as<int>(5) == 5);
  CHECK(field["absent"]["further"].as<std::string>("x") == "x");
  CHECK_FALSE(field["z"].present());
  CHECK(field["z"].is_null());

  const auto what = [](auto&& action) { return message<format_error>(action); };
  CHECK(what([&] { static_cast<void>(field["i"].as<std::uint8_t>()); }) ==
        "c.json: v.i: expected an integer from 0 to 255, found 300");
  CHECK(what([&] { static_cast<void>(field["n"].as<unsigned>()); }).ends_with("found -1"));
  CHECK(what([&] { static_cast<void>(field["f"].as<int>()); }).ends_with("found the floating-point number 2"));
  CHECK(what([&] { static_cast<void>(field["big"].as<int>()); }).ends_with("found 4294967296"));
  CHECK(what([&] { static_cast<void>(field["s"].as<int>(1)); }).ends_with("found \"x\""));
  CHECK(what([&] { static_cast<void>(field["i"].as<bool>()); }) == "c.json: v.i: expected true or false, found 300");
  CHECK(what([&] { static_cast<void>(field["h"].as<float>()); }).find("a finite number") != std::string::npos);
  CHECK(what([&] { static_cast<void>(field["l"].elements()[1].as<int>()); }).starts_with("c.json: v.l.1: expected an integer"));
  CHECK(what([&] { static_cast<void>(field["absent"].as<std::string>()); }) ==
        "c.json: v.absent: expected a string, found nothing");
  CHECK(what([&] { static_cast<void>(field["i"]["j"]); }) == "c.json: v.i: expected an object, found 300");
  CHECK(what([&] { static_cast<void>(field["i"].elements()); }) == "c.json: v.i: expected an array, found 300");
}

TEST_CASE("files are read or named") {
  const mllama_test::TemporaryFolder folder;
  CHECK(read_json(folder.write("a.json", "{\"a\": 1}"))["a"] == 1);
  CHECK(message<file_error>([&] {
          static_cast<void>(read_json(folder / "none.json"));
        }).starts_with(folder / "none.json: cannot open"));
  CHECK_THROWS_AS(static_cast<void>(read_json(folder.write("empty.json", ""))), format_error);
}
