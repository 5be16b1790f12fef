// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <charconv>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <utility>
#include <vector>

#include <mllama/core/check.hpp>
#include <mllama/core/unicode.hpp>

/// JSON of untrusted files. A text is checked once, all of it, and then read in place: no tree is built, so that a header of a
/// hundred megabytes or a vocabulary of 128 000 words costs no memory beside its text.

namespace mllama {

/// What a document may ask for at most.
struct JsonLimits {
  std::size_t depth = 64;                      ///< of nested arrays and objects
  std::size_t values = std::size_t{1} << 22U;  ///< of any kind; the tokenizer of Llama 3 has a million
  std::size_t bytes = std::size_t{64} << 20U;  ///< of text; that tokenizer has 9 to 17 MB
};

namespace detail {

/// Four hexadecimal digits; nothing if they are not there.
inline std::optional<std::uint32_t> json_unit(std::string_view text, std::size_t at) noexcept {
  const std::string_view four = text.substr(std::min(at, text.size()), 4);
  std::uint32_t unit = 0;
  const char* const end = std::from_chars(four.data(), four.data() + four.size(), unit, 16).ptr;
  if (four.size() < 4 || end != four.data() + 4) return std::nullopt;
  return unit;
}

/// Appends the characters that the inside of a checked string spells. They are never more bytes than the spelling.
inline void append_json_string(std::string& out, std::string_view body) {
  for (std::size_t at = 0; at < body.size();) {
    const std::size_t plain = std::min(body.find('\\', at), body.size());
    out += body.substr(at, plain - at);
    at = plain;
    if (at == body.size()) break;
    const char c = body[at + 1];
    at += 2;
    if (c == 'u') {
      std::uint32_t code_point = *json_unit(body, at);
      at += 4;
      if (code_point >= 0xD800 && code_point <= 0xDFFF) {
        code_point = 0x10000U + ((code_point & 0x3FFU) << 10U) + (*json_unit(body, at + 2) & 0x3FFU);
        at += 6;
      }
      append_utf8(out, code_point);
    } else {
      out += c == 'b' ? '\b' : c == 'f' ? '\f' : c == 'n' ? '\n' : c == 'r' ? '\r' : c == 't' ? '\t' : c;
    }
  }
}

/// Checks JSON text, so that all later reading may trust it. Recursion is as deep as the limit allows and no deeper.
class JsonValidator {
 public:
  JsonValidator(std::string_view text, std::string_view file, const JsonLimits& limits)
      : text_(text), file_(file), limits_(limits) {}

  /// The document without the white space around it.
  std::string_view document() {
    if (text_.size() > limits_.bytes) {
      throw format_error(Fault{.file = std::string(file_),
                               .expected = concat("JSON of at most ", limits_.bytes, " bytes"),
                               .found = concat(text_.size())});
    }
    space();
    const std::size_t begin = at_;
    value();
    const std::size_t end = at_;
    space();
    if (at_ < text_.size()) fail("the end of the text");
    return text_.substr(begin, end - begin);
  }

 private:
  [[noreturn]] void fail(std::string_view expected) const {
    const std::string_view rest = text_.substr(std::min(at_, text_.size()));
    fail(expected, rest.empty() ? "the end of the text" : to_valid_utf8(rest.substr(0, 20)));
  }
  [[noreturn]] void fail(std::string_view expected, std::string found) const {
    throw format_error(Fault{
        .file = std::string(file_), .field = concat("byte ", at_), .expected = std::string(expected), .found = std::move(found)});
  }

  [[nodiscard]] char peek() const noexcept { return at_ < text_.size() ? text_[at_] : '\0'; }
  [[nodiscard]] bool digit() const noexcept { return peek() >= '0' && peek() <= '9'; }
  bool take(char c) noexcept {
    if (peek() != c || at_ >= text_.size()) return false;
    ++at_;
    return true;
  }
  void space() noexcept {
    while (peek() == ' ' || peek() == '\n' || peek() == '\r' || peek() == '\t') ++at_;
  }

  void value() {
    if (++values_ > limits_.values) fail(concat("at most ", limits_.values, " values"));
    switch (peek()) {
      case '{':
        return object();
      case '[':
        return array();
      case '"':
        string();
        return;
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

  void open() {
    if (++depth_ > limits_.depth) fail(concat("at most ", limits_.depth, " nested levels"));
    ++at_;
    space();
  }

  void array() {
    open();
    for (bool more = !take(']'); more;) {
      value();
      space();
      more = take(',');
      if (more) {
        space();
      } else if (!take(']')) {
        fail("',' or ']'");
      }
    }
    --depth_;
  }

  void object() {
    open();
    const std::size_t first_key = keys_.size();
    for (bool more = !take('}'); more;) {
      if (peek() != '"') fail("a key");
      key();
      space();
      if (!take(':')) fail("':'");
      space();
      value();
      space();
      more = take(',');
      if (more) {
        space();
      } else if (!take('}')) {
        fail("',' or '}'");
      }
    }
    --at_;  // to the bracket, for the message
    check_keys(first_key);
    ++at_;
    --depth_;
  }

  void key() {
    std::string_view name = string();
    if (name.find('\\') != std::string_view::npos) {
      if (decoded_.empty()) decoded_.reserve(text_.size());  // it never moves: see append_json_string
      const std::size_t begin = decoded_.size();
      append_json_string(decoded_, name);
      name = std::string_view(decoded_).substr(begin);
    }
    keys_.push_back(name);
  }

  /// Readers of JSON differ in which of two equal keys counts: there must be none.
  void check_keys(std::size_t first) {
    const auto begin = keys_.begin() + static_cast<std::ptrdiff_t>(first);
    std::sort(begin, keys_.end());
    const auto twice = std::adjacent_find(begin, keys_.end());
    if (twice != keys_.end()) fail("every key once in the object that ends here", concat('"', *twice, "\" twice"));
    keys_.erase(begin, keys_.end());
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
    if (take('e') || take('E')) {
      if (!take('+')) take('-');
      digits();
    }
  }

  /// The inside of a string, as it is spelt.
  std::string_view string() {
    const std::size_t begin = ++at_;
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
    return text_.substr(begin, at_++ - begin);
  }

  void escape() {
    ++at_;
    if (!take('u')) {
      if (at_ >= text_.size() || std::string_view("\"\\/bfnrt").find(text_[at_]) == std::string_view::npos)
        fail("an escape of JSON");
      ++at_;
      return;
    }
    const std::uint32_t unit = hex();
    if (unit < 0xD800 || unit > 0xDFFF) return;
    const bool paired = unit < 0xDC00 && take('\\') && take('u');
    const std::uint32_t second = paired ? hex() : 0;
    if (second < 0xDC00 || second > 0xDFFF) fail("a pair of surrogates");
  }

  std::uint32_t hex() {
    const auto unit = json_unit(text_, at_);
    if (!unit) fail("four hexadecimal digits");
    at_ += 4;
    return *unit;
  }

  std::string_view text_, file_;
  JsonLimits limits_;
  std::size_t at_ = 0, depth_ = 0, values_ = 0;
  std::vector<std::string_view> keys_;  ///< of the objects that have begun and not ended; parts of the text or of `decoded_`
  std::string decoded_;
};

}  // namespace detail

/// A JSON value: the part of a checked text that spells it, or nothing. To make one costs nothing and to look into it costs a scan:
/// read large containers once, from front to back. Does not own the text.
class JsonView {
 public:
  enum class Kind : unsigned char { nothing, null, boolean, number, string, array, object };

  JsonView() = default;

  /// Checks all of `text`: RFC 8259, well-formed UTF-8, no lone surrogates, no key twice in an object, nothing over the limits.
  /// Takes time in proportion to the text (objects: n log n) and memory in proportion to the keys of the objects that are open.
  /// Errors:  format_error with `file` and the byte, counted from 0.
  [[nodiscard]] static JsonView parse(std::string_view text, std::string_view file, const JsonLimits& limits = {}) {
    return JsonView(detail::JsonValidator(text, file, limits).document());
  }

  [[nodiscard]] std::string_view text() const noexcept { return text_; }

  [[nodiscard]] Kind kind() const noexcept {
    switch (text_.empty() ? '\0' : text_.front()) {
      case '\0':
        return Kind::nothing;
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

  /// The value of a number without fraction and exponent, if T has it; it never passes through floating point.
  template <std::integral T = std::int64_t>
  [[nodiscard]] std::optional<T> integer() const noexcept {
    T value = 0;
    const char* const end = text_.data() + text_.size();
    const auto [stop, status] = std::from_chars(text_.data(), end, value);
    if (status != std::errc{} || stop != end) return std::nullopt;
    return value;
  }

  /// The double nearest to a number, if that is neither infinite nor, for a number that is not, zero.
  [[nodiscard]] std::optional<double> number() const noexcept {
    double value = 0;
    if (kind() != Kind::number || std::from_chars(text_.data(), text_.data() + text_.size(), value).ec != std::errc{})
      return std::nullopt;
    return value;
  }

  /// The characters of a string.
  [[nodiscard]] std::string string() const {
    std::string out;
    detail::append_json_string(out, text_.substr(1, text_.size() - 2));
    return out;
  }

  /// Whether a string has these characters.
  [[nodiscard]] bool spells(std::string_view characters) const {
    const std::string_view body = text_.substr(1, text_.size() - 2);
    return body.find('\\') == std::string_view::npos ? body == characters : string() == characters;
  }

  /// The member of an object; nothing if there is none.
  [[nodiscard]] JsonView find(std::string_view key) const {
    for (std::size_t at = 1; next_item(at);) {
      const auto [name, value] = take_member(at);
      if (name.spells(key)) return value;
    }
    return {};
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
      const auto [name, value] = take_member(at);
      f(name, value);
    }
  }

 private:
  explicit JsonView(std::string_view text) noexcept : text_(text) {}

  static void skip_string(std::string_view text, std::size_t& at) noexcept {
    for (++at; text[at] != '"'; ++at)
      if (text[at] == '\\') ++at;
    ++at;
  }

  static void skip_value(std::string_view text, std::size_t& at) noexcept {
    if (text[at] == '"') return skip_string(text, at);
    if (text[at] != '{' && text[at] != '[') {
      at = std::min(text.find_first_of(",]} \n\r\t", at), text.size());
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

  /// Moves past white space and what separates values; false at the closing bracket.
  bool next_item(std::size_t& at) const noexcept {
    at = text_.find_first_not_of(" \n\r\t,:", at);
    return at + 1 < text_.size();
  }
  JsonView take_value(std::size_t& at) const noexcept {
    const std::size_t begin = at;
    skip_value(text_, at);
    return JsonView(text_.substr(begin, at - begin));
  }
  std::pair<JsonView, JsonView> take_member(std::size_t& at) const noexcept {
    const JsonView name = take_value(at);
    next_item(at);
    return {name, take_value(at)};
  }

  std::string_view text_;
};

/// A value of a document, present or not, with its place in words. Reading it as another type than it has is a format_error that
/// names file and field, what was expected and what is there:
///
///     const JsonField config = parse_json(text, path);
///     const int width = config["vision_config"]["hidden_size"].as<int>(1280);
///
/// Refers to the text.
class JsonField {
 public:
  using Kind = JsonView::Kind;

  JsonField(JsonView value, std::string file, std::string name = {})
      : value_(value), file_(std::move(file)), name_(std::move(name)) {}

  /// Absent and null are the same to all of Hugging Face's files that this library reads.
  [[nodiscard]] bool present() const noexcept { return value_.kind() > Kind::null; }
  [[nodiscard]] bool is_null() const noexcept { return value_.kind() == Kind::null; }
  [[nodiscard]] bool is_array() const noexcept { return value_.kind() == Kind::array; }
  [[nodiscard]] bool is_object() const noexcept { return value_.kind() == Kind::object; }

  [[nodiscard]] const std::string& file() const noexcept { return file_; }
  /// Keys from the root, with dots, and indices: `text_config.eos_token_id[1]`. A key of a file may be as long as the file: only
  /// its beginning is kept, since every field that is made of this one has a copy.
  [[nodiscard]] const std::string& name() const noexcept { return name_; }

  /// The value, for readers of large containers; of this kind, which an error calls `expected`.
  [[nodiscard]] JsonView view() const noexcept { return value_; }
  [[nodiscard]] JsonView view(Kind kind, std::string_view expected) const {
    if (value_.kind() != kind) fail(std::string(expected));
    return value_;
  }

  /// Member of an object; one of an absent object is absent.
  [[nodiscard]] JsonField operator[](std::string_view key) const {
    return member(key, present() ? view(Kind::object, "an object").find(key) : JsonView());
  }
  /// A member that has been found.
  [[nodiscard]] JsonField member(std::string_view key, JsonView value) const {
    const std::string_view shown = key.substr(0, longest_key);
    return {value, file_, name_.empty() ? std::string(shown) : concat(name_, '.', shown)};
  }
  /// An element that has been found.
  [[nodiscard]] JsonField element(std::size_t index, JsonView value) const {
    return {value, file_, concat(name_, '[', index, ']')};
  }

  /// Elements of an array; more than `most` are an error.
  [[nodiscard]] std::vector<JsonField> elements(std::size_t most = 1U << 16U) const {
    std::vector<JsonField> fields;
    view(Kind::array, "an array").for_each_element([&](JsonView value) {
      if (fields.size() == most) fail(concat("at most ", most, " elements"));
      fields.push_back(element(fields.size(), value));
    });
    return fields;
  }

  /// The value. Integers are checked against the range of T; every number is a floating point value, except those beyond its range.
  template <class T>
  [[nodiscard]] T as() const {
    if constexpr (std::same_as<T, bool>) {
      return view(Kind::boolean, "true or false").text() == "true";
    } else if constexpr (std::integral<T>) {
      return integer<T>(std::numeric_limits<T>::min(), std::numeric_limits<T>::max());
    } else if constexpr (std::floating_point<T>) {
      const auto number = static_cast<T>(view(Kind::number, "a number").number().value_or(HUGE_VAL));
      if (!std::isfinite(number))
        fail(sizeof(T) < sizeof(double) ? "a number in the range of float" : "a number in the range of double");
      return number;
    } else {
      static_assert(std::same_as<T, std::string>, "JsonField::as<T>: T is a number, bool or std::string");
      return view(Kind::string, "a string").string();
    }
  }

  /// The value, or `fallback` where there is none.
  template <class T>
  [[nodiscard]] T as(T fallback) const {
    return present() ? as<T>() : std::move(fallback);
  }

  /// An integer of [least, most].
  template <std::integral T>
  [[nodiscard]] T integer(T least, T most) const {
    const std::optional<T> value = value_.integer<T>();
    if (!value || *value < least || *value > most) fail(concat("an integer from ", least, " to ", most));
    return *value;
  }

  /// Throws: this field is not what it should be.
  template <class Error = format_error>
  [[noreturn]] void fail(std::string expected, std::string note = {}) const {
    throw Error(fault(std::move(expected), std::move(note)));
  }

 private:
  [[nodiscard]] Fault fault(std::string expected, std::string note) const {
    constexpr std::size_t shown = 60;
    const std::string_view text = value_.text();
    return {.file = file_,
            .field = name_,
            .expected = std::move(expected),
            .found = text.empty()           ? "nothing"
                     : text.size() <= shown ? std::string(text)
                                            : concat(to_valid_utf8(text.substr(0, shown)), "..."),
            .note = std::move(note)};
  }

  static constexpr std::size_t longest_key = 256;

  JsonView value_;
  std::string file_, name_;
};

/// The root of a document. `file` is the name that errors print. Errors:  those of JsonView::parse.
[[nodiscard]] inline JsonField parse_json(std::string_view text, std::string file, const JsonLimits& limits = {}) {
  const JsonView root = JsonView::parse(text, file, limits);
  return {root, std::move(file)};
}

}  // namespace mllama
