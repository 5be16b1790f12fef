// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <mllama/io/json_members.hpp>
#include <string>
#include <vector>

using namespace mllama;

namespace {
std::string changed(std::string_view text, const std::vector<JsonMember>& changes) {
  return with_members(text, "config.json", changes);
}
}  // namespace

TEST_CASE("members are replaced, removed and added, and all others stay as they are") {
  const std::string config = R"({
  "architectures": [
    "MllamaForConditionalGeneration"
  ],
  "dtype": "bfloat16",
  "text_config": {"rope_theta":  500000.0, "caf\u00e9": 1e-05},
  "vision_config": {}
}
)";
  CHECK(changed(config, {}) == config);
  CHECK(changed(config, {{"dtype", R"("float16")"},
                         {"quantization_config", R"({"load_in_4bit":true,"modules":["lm_head"],"none":[], "threshold": 6.0})"},
                         {"vision_config", {}},
                         {"zebra", "null"},
                         {"absent", {}}}) == R"({
  "architectures": [
    "MllamaForConditionalGeneration"
  ],
  "dtype": "float16",
  "quantization_config": {
    "load_in_4bit": true,
    "modules": [
      "lm_head"
    ],
    "none": [],
    "threshold": 6.0
  },
  "text_config": {"rope_theta":  500000.0, "caf\u00e9": 1e-05},
  "zebra": null
}
)");
  CHECK(changed(R"(  {"a" :1,"b":[1,  2]} )", {{"a", "2"}}) == "{\n  \"a\": 2,\n  \"b\":[1,  2]\n} ");
  CHECK(changed("{}", {{"b", "1"}, {"a", "2"}}) == "{\n  \"a\": 2,\n  \"b\": 1\n}");
  CHECK(changed(R"({"a": 1})", {{"a", {}}}) == "{}");
  CHECK(changed(R"({"\u0061": 1})", {{"a", "2"}}) == "{\n  \"a\": 2\n}");
  CHECK(changed("{}", {{"a", "1"}, {"a", {}}, {"q\"\n", "0"}}) == "{\n  \"q\\\"\\n\": 0\n}");
}

TEST_CASE("what is no JSON object, or no JSON, is an error") {
  CHECK_THROWS_WITH_AS(changed("[]", {}), "config.json: expected an object, found []", format_error);
  CHECK_THROWS_WITH_AS(changed("{} x", {}), "config.json: byte 3: expected the end of the text, found x", format_error);
  CHECK_THROWS_AS(changed("{}", {{"a", "tru"}}), format_error);
  CHECK_THROWS_AS(changed("{}", {{"a", ""}}), format_error);
}
