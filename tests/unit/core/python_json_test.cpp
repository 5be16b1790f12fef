// SPDX-License-Identifier: MIT
#include <mllama/core/python_json.hpp>

#include <doctest/doctest.h>

#include <string>
#include <utility>

using namespace mllama;

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
