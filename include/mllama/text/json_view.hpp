// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <mllama/core/check.hpp>
#include <mllama/text/unicode.hpp>

namespace mllama {

namespace detail {

/// Checks JSON text once, so that all later reading may trust it.
class JsonValidator {
 public:
  static constexpr int deepest = 64;

  JsonValidator(std::string_view text, std::string_view file) : text_(text), file_(file) {}

  void document() {
    value(0);
    space();
    if (at_ < text_.size()) fail("the end of the text");
  }

 private:
  [[noreturn]] void fail(std::string_view expected) const {
    const std::string_view rest = text_.substr(at_ < text_.size() ? at_ : text_.size());
    throw format_error(Fault{.file = std::string(file_),
                             .field = concat("byte ", at_),
                             .expected = std::string(expected),
                             .found = rest.empty() ? "the end of the text" : to_valid_utf8(rest.substr(0, 20)),
                             .note = {}});
  }

  [[nodiscard]] char peek() const noexcept { return at_ < text_.size() ? text_[at_] : '\0'; }
  [[nodiscard]] bool digit() const noexcept { return peek() >= '0' && peek() <= '9'; }
  bool take(char c) noexcept {
    if (peek() != c) return false;
    ++at_;
    return true;
  }
  void space() noexcept {
    while (peek() == ' ' || peek() == '\n' || peek() == '\r' || peek() == '\t') ++at_;
  }

  void value(int depth) {
    space();
    switch (peek()) {
      case '{':
        return list(depth, '}', true);
      case '[':
        return list(depth, ']', false);
      case '"':
        return string();
      case 't':
        return literal("true");
      case 'f':
        return literal("false");
      case 'n':
        return literal("null");
      default:
        return number();
    }
  }

  void list(int depth, char end, bool keyed) {
    if (depth == deepest) fail(concat("at most ", deepest, " levels"));
    ++at_;
    space();
    if (take(end)) return;
    for (;;) {
      if (keyed) {
        space();
        if (peek() != '"') fail("a key");
        string();
        space();
        if (!take(':')) fail("':'");
      }
      value(depth + 1);
      space();
      if (take(end)) return;
      if (!take(',')) fail(keyed ? "',' or '}'" : "',' or ']'");
    }
  }

  void literal(std::string_view word) {
    if (text_.substr(at_, word.size()) != word) fail("a value");
    at_ += word.size();
  }

  void digits() {
    if (!digit()) fail("a digit");
    while (digit()) ++at_;
  }

  void number() {
    if (!digit() && peek() != '-') fail("a value");
    take('-');
    if (!take('0')) digits();
    if (take('.')) digits();
    if (peek() == 'e' || peek() == 'E') {
      ++at_;
      if (peek() == '+' || peek() == '-') ++at_;
      digits();
    }
  }

  void string() {
    ++at_;
    for (;;) {
      if (at_ >= text_.size()) fail("'\"'");
      const auto c = static_cast<unsigned char>(text_[at_]);
      if (c == '"') break;
      if (c == '\\') {
        escape();
      } else if (c < 0x20) {
        fail("an escaped control character");
      } else if (c < 0x80) {
        ++at_;
      } else {
        const CodePoint next = code_point_at(text_, at_);
        if (next.kind != CodePoint::Kind::valid) fail("UTF-8");
        at_ += next.length;
      }
    }
    ++at_;
  }

  void escape() {
    ++at_;
    if (!take('u')) {
      if (at_ >= text_.size() || std::string_view("\"\\/bfnrt").find(text_[at_]) == std::string_view::npos)
        fail("an escape of JSON");
      ++at_;
      return;
    }
    const unsigned unit = hex();
    if (unit < 0xD800 || unit > 0xDFFF) return;
    const bool paired = unit < 0xDC00 && take('\\') && take('u');
    const unsigned second = paired ? hex() : 0;
    if (second < 0xDC00 || second > 0xDFFF) fail("a pair of surrogates");
  }

  unsigned hex() {
    unsigned unit = 0;
    const std::string_view four = text_.substr(at_, 4);
    const auto [end, status] = std::from_chars(four.data(), four.data() + four.size(), unit, 16);
    if (four.size() < 4 || end != four.data() + 4) fail("four hexadecimal digits");
    at_ += 4;
    return unit;
  }

  std::string_view text_, file_;
  std::size_t at_ = 0;
};

}  // namespace detail

/// A JSON value: the part of a validated text that spells it. To make one costs nothing and to look into it costs a scan, which
/// suits a tokenizer.json of 17 MB whose 400 000 entries are each read once. Does not own the text.
class JsonView {
 public:
  enum class Kind : unsigned char { null, boolean, number, string, array, object };

  /// Validates all of `text`: RFC 8259, well-formed UTF-8, no lone surrogates, at most 64 levels.
  /// Errors:  format_error with `file` and the byte.
  [[nodiscard]] static JsonView parse(std::string_view text, std::string_view file) {
    detail::JsonValidator(text, file).document();
    std::size_t begin = 0;
    skip_space(text, begin);
    std::size_t end = begin;
    skip_value(text, end);
    return JsonView(text.substr(begin, end - begin));
  }

  [[nodiscard]] std::string_view text() const noexcept { return text_; }

  [[nodiscard]] Kind kind() const noexcept {
    switch (text_.front()) {
      case '{':
        return Kind::object;
      case '[':
        return Kind::array;
      case '"':
        return Kind::string;
      case 't':
      case 'f':
        return Kind::boolean;
      case 'n':
        return Kind::null;
      default:
        return Kind::number;
    }
  }

  /// The value of a number without fraction and exponent that fits.
  [[nodiscard]] std::optional<std::int64_t> integer() const noexcept {
    std::int64_t value = 0;
    const auto [end, status] = std::from_chars(text_.data(), text_.data() + text_.size(), value);
    if (status != std::errc{} || end != text_.data() + text_.size()) return std::nullopt;
    return value;
  }

  /// The characters of a string.
  [[nodiscard]] std::string string() const {
    const std::string_view body = text_.substr(1, text_.size() - 2);
    std::string out;
    out.reserve(body.size());
    for (std::size_t at = 0; at < body.size();) {
      const std::size_t plain = std::min(body.find('\\', at), body.size());
      out += body.substr(at, plain - at);
      at = plain;
      if (at == body.size()) break;
      const char c = body[at + 1];
      at += 2;
      if (c == 'u') {
        std::uint32_t code_point = unit(body, at);
        at += 4;
        if (code_point >= 0xD800 && code_point <= 0xDFFF) {
          code_point = 0x10000U + ((code_point & 0x3FFU) << 10U) + (unit(body, at + 2) & 0x3FFU);
          at += 6;
        }
        append_utf8(out, code_point);
      } else {
        out += c == 'b' ? '\b' : c == 'f' ? '\f' : c == 'n' ? '\n' : c == 'r' ? '\r' : c == 't' ? '\t' : c;
      }
    }
    return out;
  }

  /// Calls `f(JsonView)` for each element of an array.
  template <class F>
  void for_each_element(F&& f) const {
    for (std::size_t at = 1; next_item(at);) f(take_value(at));
  }

  /// Calls `f(key, value)` for each member of an object, in the order of the text; the key is a view of kind string.
  template <class F>
  void for_each_member(F&& f) const {
    for (std::size_t at = 1; next_item(at);) {
      const JsonView key = take_value(at);
      skip_space(text_, at);
      ++at;  // the colon
      skip_space(text_, at);
      f(key, take_value(at));
    }
  }

 private:
  explicit JsonView(std::string_view text) noexcept : text_(text) {}

  static void skip_space(std::string_view text, std::size_t& at) noexcept {
    while (at < text.size() && (text[at] == ' ' || text[at] == '\n' || text[at] == '\r' || text[at] == '\t')) ++at;
  }

  static void skip_string(std::string_view text, std::size_t& at) noexcept {
    for (++at; text[at] != '"'; ++at)
      if (text[at] == '\\') ++at;
    ++at;
  }

  static void skip_value(std::string_view text, std::size_t& at) noexcept {
    if (text[at] == '"') return skip_string(text, at);
    if (text[at] != '{' && text[at] != '[') {
      while (at < text.size() && std::string_view(",]} \n\r\t").find(text[at]) == std::string_view::npos) ++at;
      return;
    }
    std::size_t depth = 0;
    do {
      switch (text[at++]) {
        case '"':
          skip_string(text, --at);
          break;
        case '{':
        case '[':
          ++depth;
          break;
        case '}':
        case ']':
          --depth;
          break;
        default:
          break;
      }
    } while (depth > 0);
  }

  /// Moves to the next element or key; false at the closing bracket.
  bool next_item(std::size_t& at) const noexcept {
    skip_space(text_, at);
    if (text_[at] == ',') ++at;
    skip_space(text_, at);
    return at + 1 < text_.size();
  }

  JsonView take_value(std::size_t& at) const noexcept {
    const std::size_t begin = at;
    skip_value(text_, at);
    return JsonView(text_.substr(begin, at - begin));
  }

  static std::uint32_t unit(std::string_view text, std::size_t at) noexcept {
    std::uint32_t value = 0;
    std::from_chars(text.data() + at, text.data() + at + 4, value, 16);
    return value;
  }

  std::string_view text_;
};

namespace detail {

/// A value of a JSON file that knows its place, for errors that name it.
class JsonPlace {
 public:
  JsonPlace(JsonView value, std::string_view file, std::string path) : value_(value), file_(file), path_(std::move(path)) {}

  [[nodiscard]] JsonView view() const noexcept { return value_; }
  [[nodiscard]] std::string_view file() const noexcept { return file_; }
  [[nodiscard]] const std::string& path() const noexcept { return path_; }
  [[nodiscard]] bool is(JsonView::Kind kind) const noexcept { return value_.kind() == kind; }

  [[noreturn]] void fail(std::string expected) const {
    constexpr std::size_t shown = 60;
    const std::string_view text = value_.text();
    throw format_error(
        Fault{.file = std::string(file_),
              .field = path_,
              .expected = std::move(expected),
              .found = text.size() <= shown ? std::string(text) : concat(to_valid_utf8(text.substr(0, shown)), "..."),
              .note = {}});
  }
  const JsonPlace& expect(JsonView::Kind kind, std::string_view name) const {
    if (!is(kind)) fail(std::string(name));
    return *this;
  }

  /// A member of an object; nothing if it is missing or null, which mean the same in tokenizer files.
  [[nodiscard]] std::optional<JsonPlace> find(std::string_view key) const {
    expect(JsonView::Kind::object, "an object");
    if (members_.empty())  // one scan serves all keys: the model's members are megabytes
      value_.for_each_member([&](JsonView name, JsonView member) { members_.emplace_back(name.string(), member); });
    std::optional<JsonPlace> found;
    for (const auto& [name, member] : members_) {
      if (name != key) continue;
      if (found) found->fail("the key once, not twice");
      found.emplace(member, file_, path_.empty() ? std::string(key) : concat(path_, '.', key));
    }
    if (found && found->is(JsonView::Kind::null)) found.reset();
    return found;
  }
  [[nodiscard]] JsonPlace get(std::string_view key) const {
    std::optional<JsonPlace> found = find(key);
    if (!found) fail(concat("a member \"", key, '"'));
    return *std::move(found);
  }
  template <class F>
  void for_each_element(F&& f) const {
    expect(JsonView::Kind::array, "an array");
    std::size_t index = 0;
    value_.for_each_element([&](JsonView element) { f(JsonPlace(element, file_, concat(path_, '[', index++, ']'))); });
  }

  [[nodiscard]] std::string string() const { return expect(JsonView::Kind::string, "a string").value_.string(); }
  [[nodiscard]] bool boolean() const { return expect(JsonView::Kind::boolean, "true or false").value_.text() == "true"; }
  [[nodiscard]] std::int64_t integer(std::int64_t below) const {
    const std::optional<std::int64_t> value = is(JsonView::Kind::number) ? value_.integer() : std::nullopt;
    if (!value || *value < 0 || *value >= below) fail(concat("an integer from 0 to ", below - 1));
    return *value;
  }

  /// A member that must be what this library can do: missing, or equal to `only`.
  void require(std::string_view key, bool only) const {
    if (const auto member = find(key); member && member->boolean() != only)
      member->fail(concat(only, " (nothing else is supported)"));
  }
  void require_nothing(std::string_view key) const {
    if (const auto member = find(key)) member->fail("null (nothing else is supported)");
  }

 private:
  JsonView value_;
  std::string_view file_;
  std::string path_;
  mutable std::vector<std::pair<std::string, JsonView>> members_;
};

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
    return Fault{.file = std::string(file),
                 .field = {},
                 .expected = "a number in the range of a double",
                 .found = std::string(number),
                 .note = {}};
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

/// JSON text written anew as Python does: `json.dumps(json.loads(text), ensure_ascii=False, indent=indent or None)`, the order of
/// keys kept. Repeated keys are kept too, where Python keeps the last.
/// Errors:  format_error with `name` when `text` is not JSON or a number does not fit a double.
[[nodiscard]] inline std::string python_json(std::string_view text, std::string_view name, int indent = 0) {
  std::string out;
  detail::append_python_json(out, JsonView::parse(text, name), name, indent, 0);
  return out;
}

}  // namespace mllama
