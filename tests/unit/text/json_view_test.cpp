// SPDX-License-Identifier: MIT
#include <mllama/text/json_view.hpp>

#include <doctest/doctest.h>

#include <string>
#include <vector>

using namespace mllama;

TEST_CASE("a document is read in place") {
  const std::string text = R"( { "a" : [1, -2.5e3, "x\"]\\", {}, [ ]], "b\u00e9\ud83d\ude00" : null, "" : true } )";
  const JsonView root = JsonView::parse(text, "f");
  REQUIRE(root.kind() == JsonView::Kind::object);
  std::vector<std::string> keys, values;
  root.for_each_member([&](JsonView key, JsonView value) {
    keys.push_back(key.string());
    values.emplace_back(value.text());
  });
  CHECK(keys == std::vector<std::string>{"a", "b\u00e9\U0001F600", ""});
  CHECK(values == std::vector<std::string>{R"([1, -2.5e3, "x\"]\\", {}, [ ]])", "null", "true"});
  std::vector<std::string> elements;
  JsonView::parse(values[0], "f").for_each_element([&](JsonView element) { elements.emplace_back(element.text()); });
  CHECK(elements == std::vector<std::string>{"1", "-2.5e3", R"("x\"]\\")", "{}", "[ ]"});
  CHECK(JsonView::parse(R"("\/\b\f\n\r\t\u0041")", "f").string() == "/\b\f\n\r\tA");
  CHECK(JsonView::parse("17", "f").integer() == 17);
  CHECK_FALSE(JsonView::parse("17.0", "f").integer());
  CHECK_FALSE(JsonView::parse("99999999999999999999", "f").integer());
}

TEST_CASE("what is not JSON is refused, at every length") {
  for (const char* text : {"",          " ",           "nul",          "truex",       "01",
                           "-",         "1.",          ".5",           "1e",          "+1",
                           "NaN",       "[1,]",        "[,1]",         "[1 2]",       "{\"a\"}",
                           "{\"a\":}",  "{\"a\":1,}",  "{a:1}",        "\"",          "\"\\x\"",
                           "\"\\u12\"", "\"\\u12g4\"", "\"\\ud800\"",  "\"\\udc00\"", "\"\\ud800\\u0041\"",
                           "\"\n\"",    "\"\xFF\"",    "\"\xE2\x82\"", "[",           "]",
                           "1 1",       "'a'",         "[1]]",         "\"\\"}) {
    CAPTURE(text);
    CHECK_THROWS_AS(static_cast<void>(JsonView::parse(text, "f")), format_error);
  }
  CHECK_THROWS_AS(static_cast<void>(JsonView::parse(std::string("\0", 1), "f")), format_error);
  CHECK_THROWS_AS(static_cast<void>(JsonView::parse(std::string("1\0", 2), "f")), format_error);
  const std::string whole = R"({"a":[1.5e-3,"\u00e9\ud83d\ude00é"],"b":{"c":false}})";
  for (std::size_t length = 0; length < whole.size(); ++length)
    CHECK_THROWS_AS(static_cast<void>(JsonView::parse(whole.substr(0, length), "f")), format_error);
  CHECK_THROWS_WITH_AS(static_cast<void>(JsonView::parse("[1,x]", "file.json")), "file.json: byte 3: expected a value, found x]",
                       format_error);
}

TEST_CASE("depth is limited") {
  CHECK_NOTHROW(static_cast<void>(JsonView::parse(std::string(64, '[') + std::string(64, ']'), "f")));
  CHECK_THROWS_AS(static_cast<void>(JsonView::parse(std::string(65, '[') + std::string(65, ']'), "f")), format_error);
  CHECK_THROWS_AS(static_cast<void>(JsonView::parse(std::string(1'000'000, '['), "f")), format_error);
}

TEST_CASE("JSON in Python's spelling") {
  CHECK(python_json(R"({"b":1,"a":[true,null,"é\u00e9"],"c":{},"d":[]})", "t") ==
        R"({"b": 1, "a": [true, null, "éé"], "c": {}, "d": []})");
  CHECK(python_json(R"({"b":{"x":[1,2]},"c":{},"d":[]})", "t", 4) ==
        "{\n    \"b\": {\n        \"x\": [\n            1,\n            2\n        ]\n    },\n    \"c\": {},\n    \"d\": []\n}");
  CHECK(python_json(R"("\u0000\u001f\u007f\/\"\\\n\r\t\b\f")", "t") == "\"\\u0000\\u001f\x7F/\\\"\\\\\\n\\r\\t\\b\\f\"");
  const std::pair<const char*, const char*> numbers[] = {
      {"-0", "0"},           {"-0.0", "-0.0"},
      {"1.0", "1.0"},        {"1.50", "1.5"},
      {"1E5", "100000.0"},   {"1e15", "1000000000000000.0"},
      {"1e16", "1e+16"},     {"123456789012345678901234567890", "123456789012345678901234567890"},
      {"0.0001", "0.0001"},  {"0.00001", "1e-05"},
      {"1.5e-7", "1.5e-07"}, {"1.7976931348623157e308", "1.7976931348623157e+308"},
      {"0.1", "0.1"},        {"12345.678e2", "1234567.8"},
      {"5e-324", "5e-324"}};
  for (const auto& [json, python] : numbers) CHECK(python_json(json, "t") == python);
  CHECK_THROWS_AS(static_cast<void>(python_json("1e999", "t")), format_error);
  CHECK_THROWS_WITH_AS(static_cast<void>(python_json("{", "tools[1]")),
                       "tools[1]: byte 1: expected a key, found the end of the text", format_error);
}
