// SPDX-License-Identifier: MIT
#include <mllama/core/json.hpp>

#include <doctest/doctest.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

using namespace mllama;
using namespace std::string_view_literals;

namespace {

/// What the error says.
template <class Action>
std::string message(Action&& action) {
  try {
    action();
  } catch (const format_error& e) {
    return e.what();
  }
  return "no error";
}
std::string refusal(std::string_view text, const JsonLimits& limits = {}) {
  return message([&] { static_cast<void>(JsonView::parse(text, "f", limits)); });
}

}  // namespace

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
  CHECK(JsonView::parse("18446744073709551615", "f").integer<std::uint64_t>() == 18446744073709551615U);
  CHECK_FALSE(JsonView::parse("-0", "f").integer<std::uint64_t>());
  CHECK(JsonView::parse("-2.5e-1", "f").number() == -0.25);
  CHECK_FALSE(JsonView::parse("1e999", "f").number());
  CHECK(root.find("bé\U0001F600").kind() == JsonView::Kind::null);
  CHECK(root.find("").text() == "true");
  CHECK(root.find("b").kind() == JsonView::Kind::nothing);
}

TEST_CASE("what is not JSON is refused with file and byte") {
  struct Row {
    std::string_view text, part;
  };
  for (const auto& [text, part] : {
           Row{"", "f: byte 0: expected a value, found the end of the text"},
           {" ", "byte 1: expected a value"},
           {"nul", "expected a value"},
           {"truex", "byte 4: expected the end of the text, found x"},
           {"01", "byte 1: expected the end of the text"},
           {"-", "byte 1: expected a digit"},
           {"1.", "byte 2: expected a digit"},
           {".5", "byte 0: expected a value"},
           {"1e", "byte 2: expected a digit"},
           {"1e+", "byte 3: expected a digit"},
           {"+1", "byte 0: expected a value"},
           {"NaN", "byte 0: expected a value"},
           {"Infinity", "byte 0: expected a value"},
           {"-Infinity", "byte 1: expected a digit"},
           {"[1,]", "byte 3: expected a value, found ]"},
           {"[,1]", "byte 1: expected a value"},
           {"[1 2]", "byte 3: expected ',' or ']', found 2]"},
           {"[1] // comment", "byte 4: expected the end of the text"},
           {"{\"a\"}", "byte 4: expected ':'"},
           {"{\"a\":}", "byte 5: expected a value"},
           {"{\"a\":1,}", "byte 7: expected a key"},
           {"{a:1}", "byte 1: expected a key"},
           {"{'a': 1}", "byte 1: expected a key"},
           {"{\"a\":1]", "byte 6: expected ',' or '}'"},
           {"\"", "byte 1: expected '\"', found the end of the text"},
           {"\"\\", "an escape of JSON"},
           {"\"\\x\"", "byte 2: expected an escape of JSON"},
           {"\"\\u12\"", "byte 3: expected four hexadecimal digits"},
           {"\"\\u12g4\"", "four hexadecimal digits"},
           {"\"\\u+123\"", "four hexadecimal digits"},
           {"\"\\ud800\"", "a pair of surrogates"},
           {"\"\\udc00\"", "a pair of surrogates"},
           {"\"\\ud800\\u0041\"", "a pair of surrogates"},
           {"\"\n\"", "byte 1: expected an escaped control character"},
           {"\"\xFF\"", "byte 1: expected UTF-8"},
           {"\"\xE2\x82\"", "byte 1: expected UTF-8"},
           {"\"\xED\xA0\x80\"", "byte 1: expected UTF-8"},
           {"\xEF\xBB\xBF{}", "byte 0: expected a value"},
           {"[", "expected a value"},
           {"]", "expected a value"},
           {"[1]]", "byte 3: expected the end of the text"},
           {"1 1", "byte 2: expected the end of the text"},
           {"[1]\0[2]"sv, "byte 3: expected the end of the text"},
           {"\0"sv, "byte 0: expected a value"},
       }) {
    CAPTURE(text);
    CHECK(refusal(text).find(part) != std::string::npos);
  }
}

TEST_CASE("every cut of a document is an error") {
  const std::string text = R"({"a": [1, -2.5e3, {"b": "é\n\u00e9\ud83d\ude00"}], "c": {"d": null, "e": false}})";
  CHECK(refusal(text) == "no error");
  for (std::size_t length = 0; length < text.size(); ++length) {
    CAPTURE(length);
    CHECK(refusal(std::string_view(text).substr(0, length)) != "no error");
  }
}

TEST_CASE("a key is in an object once, however it is spelt") {
  CHECK(refusal(R"({"a": 1, "b": {"c": 1, "d": 1, "c": 2}})") ==
        "f: byte 37: expected every key once in the object that ends here, found \"c\" twice");
  CHECK(refusal(R"({"a\u0062": 1, "\u0061b": 2})").find("\"ab\" twice") != std::string::npos);
  CHECK(refusal(R"({"": 1, "": 2})").find("\"\" twice") != std::string::npos);
  CHECK(refusal(R"([{"a": {"a": 1}}, {"a": 2}])") == "no error");
}

TEST_CASE("limits hold") {
  CHECK(refusal(std::string(64, '[') + std::string(64, ']')) == "no error");
  CHECK(refusal(std::string(1'000'000, '[')).starts_with("f: byte 64: expected at most 64 nested levels"));
  CHECK(refusal("[[[]]]", {.depth = 3}) == "no error");
  CHECK(refusal("[[{}]]", {.depth = 2}) == "f: byte 2: expected at most 2 nested levels, found {}]]");
  CHECK(refusal("[1, 2, 3]", {.values = 4}) == "no error");
  CHECK(refusal("[1, 2, 3]", {.values = 3}) == "f: byte 7: expected at most 3 values, found 3]");
  CHECK(refusal("[1, 2, 3]", {.bytes = 8}) == "f: expected JSON of at most 8 bytes, found 9");
}

TEST_CASE("large documents take time in proportion to their size") {
  std::string text = "{";
  for (int i = 0; i < 100'000; ++i) text += concat(i == 0 ? "" : ",", "\"\\u0061", i * 7919 % 100'000, "\":[[],{}]");
  CHECK(refusal(text + '}') == "no error");
  std::size_t members = 0;
  text += '}';
  JsonView::parse(text, "f").for_each_member([&](JsonView, JsonView value) { members += value.text() == "[[],{}]" ? 1U : 0U; });
  CHECK(members == 100'000);
}

TEST_CASE("a field does not carry a key of any length") {
  const std::string key(1'000'000, 'k'), text = concat("{\"", key, "\": {\"", key, "\": [0]}}");
  const JsonField field = parse_json(text, "f")[key][key].elements()[0];
  CHECK(field.as<int>() == 0);
  CHECK(field.name().size() < 1000);
  CHECK(field.name().starts_with("kkk"));
  CHECK(field.name().ends_with("k[0]"));
}

TEST_CASE("fields are typed and name themselves") {
  const std::string text =
      R"({"v": {"i": 300, "n": -1, "f": 2.0, "big": 4294967296, "s": "x", "b": true, "z": null, "l": [1, "two"], "h": 1e300, "o": {}}})";
  const JsonField root = parse_json(text, "c.json"), field = root["v"];
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

  CHECK(message([&] { static_cast<void>(field["i"].as<std::uint8_t>()); }) ==
        "c.json: v.i: expected an integer from 0 to 255, found 300");
  CHECK(message([&] { static_cast<void>(field["n"].as<unsigned>()); }).ends_with("found -1"));
  CHECK(message([&] { static_cast<void>(field["f"].as<int>()); }).ends_with("found 2.0"));
  CHECK(message([&] { static_cast<void>(field["big"].as<int>()); }).ends_with("found 4294967296"));
  CHECK(message([&] { static_cast<void>(field["s"].as<int>(1)); }).ends_with("found \"x\""));
  CHECK(message([&] { static_cast<void>(field["i"].as<bool>()); }) == "c.json: v.i: expected true or false, found 300");
  CHECK(message([&] { static_cast<void>(field["h"].as<float>()); }).find("a number in the range of float") != std::string::npos);
  CHECK(message([&] { static_cast<void>(field["l"].elements()[1].as<int>()); }).starts_with("c.json: v.l[1]: expected an integer"));
  CHECK(message([&] { static_cast<void>(field["absent"].as<std::string>()); }) ==
        "c.json: v.absent: expected a string, found nothing");
  CHECK(message([&] { static_cast<void>(field["i"]["j"]); }) == "c.json: v.i: expected an object, found 300");
  CHECK(message([&] { static_cast<void>(field["i"].elements()); }) == "c.json: v.i: expected an array, found 300");
  CHECK(message([&] { static_cast<void>(field["l"].elements(1)); }) ==
        "c.json: v.l: expected at most 1 elements, found [1, \"two\"]");
  CHECK(message([&] { field["absent"].fail<format_error>("more", "Because."); }) ==
        "c.json: v.absent: expected more, found nothing: Because.");
  CHECK(message([&] { root.fail("less"); }).starts_with("c.json: expected less, found {\"v\": {"));
  CHECK(message([&] { root.fail("less"); }).ends_with("..."));
}
