// SPDX-License-Identifier: MIT
#pragma once

#include <charconv>
#include <cstddef>
#include <string>
#include <string_view>
#include <system_error>

#include <mllama/core/check.hpp>
#include <mllama/core/json.hpp>

namespace mllama {

namespace detail {

/// The text that Python's json writes for a string with ensure_ascii off.
inline void append_python_string(std::string& out, std::string_view text) {
  static constexpr std::string_view hex = "0123456789abcdef";
  out += '"';
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    switch (c) {
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      case '\n':
        out += "\\n";
        break;
      case '\r':
        out += "\\r";
        break;
      case '\t':
        out += "\\t";
        break;
      case '\f':
        out += "\\f";
        break;
      case '\b':
        out += "\\b";
        break;
      default:
        if (byte < 0x20) {
          out += "\\u00";
          out += hex[byte >> 4U];
          out += hex[byte & 15U];
        } else {
          out += c;
        }
    }
  }
  out += '"';
}

/// The text that Python's repr gives for a number of JSON: integers keep all digits, others become the shortest text of a double.
inline void append_python_number(std::string& out, std::string_view number, std::string_view file) {
  if (number.find_first_of(".eE") == std::string_view::npos) {
    out += number == "-0" ? "0" : number;
    return;
  }
  double value = 0;
  const auto status = std::from_chars(number.data(), number.data() + number.size(), value).ec;
  check<format_error>(status == std::errc{}, [&] {
    return Fault{.file = std::string(file), .expected = "a number in the range of a double", .found = std::string(number)};
  });
  char buffer[32];
  const char* end = std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::scientific).ptr;
  const std::string_view shortest(buffer, static_cast<std::size_t>(end - buffer));  // -d.ddde+xx
  int exponent = 0;
  const std::size_t mark = shortest.find('e');
  std::from_chars(shortest.data() + mark + (shortest[mark + 1] == '+' ? 2 : 1), end, exponent);
  if (exponent < -4 || exponent >= 16) {
    out += shortest;
    return;
  }
  end = std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::fixed).ptr;
  const std::string_view fixed(buffer, static_cast<std::size_t>(end - buffer));
  out += fixed;
  if (fixed.find('.') == std::string_view::npos) out += ".0";
}

inline void append_python_json(std::string& out, JsonView value, std::string_view file, int indent, int level) {
  const JsonView::Kind kind = value.kind();
  if (kind == JsonView::Kind::string) return append_python_string(out, value.string());
  if (kind == JsonView::Kind::number) return append_python_number(out, value.text(), file);
  if (kind != JsonView::Kind::object && kind != JsonView::Kind::array) {
    out += value.text();
    return;
  }
  const bool keyed = kind == JsonView::Kind::object;
  bool first = true;
  const auto separate = [&](int depth) {
    if (indent == 0) return;
    out += '\n';
    out.append(static_cast<std::size_t>(indent) * static_cast<std::size_t>(depth), ' ');
  };
  const auto item = [&](const JsonView* key, JsonView element) {
    if (!first) out += indent == 0 ? ", " : ",";
    first = false;
    separate(level + 1);
    if (key != nullptr) {
      append_python_string(out, key->string());
      out += ": ";
    }
    append_python_json(out, element, file, indent, level + 1);
  };
  out += keyed ? '{' : '[';
  if (keyed) {
    value.for_each_member([&](JsonView key, JsonView member) { item(&key, member); });
  } else {
    value.for_each_element([&](JsonView element) { item(nullptr, element); });
  }
  if (!first) separate(level);
  out += keyed ? '}' : ']';
}

}  // namespace detail

/// A JSON string, as Python's json with ensure_ascii off and the writer of safetensors spell it.
[[nodiscard]] inline std::string python_string(std::string_view text) {
  std::string out;
  detail::append_python_string(out, text);
  return out;
}

/// JSON text written anew as Python does: `json.dumps(json.loads(text), ensure_ascii=False, indent=indent or None)`, the order of
/// keys kept.
/// Errors:  format_error with `name` when `text` is not JSON or a number does not fit a double.
[[nodiscard]] inline std::string python_json(std::string_view text, std::string_view name, int indent = 0) {
  std::string out;
  detail::append_python_json(out, JsonView::parse(text, name), name, indent, 0);
  return out;
}

}  // namespace mllama
