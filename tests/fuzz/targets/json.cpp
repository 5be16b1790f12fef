// SPDX-License-Identifier: MIT
// The JSON reader by itself: every value of a document is read in every way, and written anew.
#include <mllama/core/json.hpp>
#include <mllama/core/python_json.hpp>

#include "fuzz.hpp"

using mllama::JsonView;
using mllama_fuzz::require;

namespace {

void read_all(JsonView value, std::size_t& values) {
  ++values;
  static_cast<void>(value.integer<std::int8_t>());
  static_cast<void>(value.integer<std::uint64_t>());
  static_cast<void>(value.number());
  if (value.kind() == JsonView::Kind::string) {
    const std::string text = value.string();
    require(value.spells(text), "a string spells its characters");
    require(mllama::valid_utf8_length(text) == text.size(), "a string is UTF-8");
    const std::string quoted = mllama::python_string(text);
    require(JsonView::parse(quoted, "quoted").string() == text, "a string is the same after it was written");
  } else if (value.kind() == JsonView::Kind::array) {
    value.for_each_element([&](JsonView element) { read_all(element, values); });
  } else if (value.kind() == JsonView::Kind::object) {
    std::size_t members = 0;
    value.for_each_member([&](JsonView key, JsonView member) {
      if (members++ < 16) require(value.find(key.string()).text().data() == member.text().data(), "a member is found by its key");
      read_all(key, values);
      read_all(member, values);
    });
  }
}

}  // namespace

std::vector<std::string> mllama_fuzz::seeds() {
  return {R"( { "a" : [1, -2.5e3, "x\"]\\", {}, [ ]], "b\u00e9\ud83d\ude00" : null, "" : true, "\u0062" : false } )",
          R"(["\/\b\f\n\r\t\u0041", 17, 18446744073709551615, -0, 0.1, 1e22, 1E-7, 123456789.125, 5e-324, 1e308])",
          "\"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\"", "[[[[[[{\"a\":{\"a\":{}}}]]]]]]"};
}

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text = mllama_fuzz::text_of(data, size);
  mllama_fuzz::takes([&] {
    std::size_t values = 0;
    read_all(JsonView::parse(text, "text"), values);
    require(values <= size, "a value has a character of its own");
    const std::string compact = mllama::python_json(text, "text"), wide = mllama::python_json(text, "text", 4);
    require(mllama::python_json(compact, "compact") == compact, "what has been written is written the same again");
    require(mllama::python_json(wide, "wide") == compact, "indentation changes nothing");
  });
  return 0;
}
