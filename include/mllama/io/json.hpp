// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstring>
#include <limits>
#include <mllama/core/check.hpp>
#include <mllama/io/mapped_file.hpp>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

/// JSON of untrusted files. This is the only header that includes the JSON library.

namespace mllama {

using json = nlohmann::json;

/// What a document may ask for at most.
struct JsonLimits {
  std::size_t depth = 64;                      ///< of nested arrays and objects
  std::size_t values = std::size_t{1} << 22U;  ///< of any kind; each takes up to a hundred bytes of memory
  std::size_t bytes = std::size_t{64} << 20U;  ///< of text; the tokenizer of Llama 3 has 9 to 17 MB
};

namespace detail {

/// Receives the parts of a document in their order, and keeps it within its limits. One base for all receivers, so that the parser
/// is instantiated once.
class JsonReceiver : public nlohmann::json_sax<json> {
 public:
  JsonReceiver(std::string_view file, JsonLimits limits) : file_(file), limits_(limits) {}

  bool binary(binary_t&) final { return false; }  // not part of JSON text
  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception& cause) final {
    std::string_view reason = cause.what();  // "[json.exception.…] parse error at line 1, column 2: reason"
    if (const auto colon = reason.find(": "); colon != std::string_view::npos) reason.remove_prefix(colon + 2);
    fail(concat("invalid JSON at byte ", position, ": ", reason.substr(0, 300)));
  }

 protected:
  [[noreturn]] void fail(Fault fault) const {
    fault.file = file_;
    throw format_error(std::move(fault));
  }
  [[noreturn]] void fail(std::string note, std::string_view field = {}) const {
    fail(Fault{.file = {}, .field = std::string(field), .expected = {}, .found = {}, .note = std::move(note)});
  }
  void open() {
    if (++depth_ > limits_.depth) fail(concat("JSON is nested deeper than ", limits_.depth, " levels"));
    count();
  }
  void close() { --depth_; }
  void count() {
    if (++values_ > limits_.values) fail(concat("JSON has more than ", limits_.values, " values"));
  }
  [[nodiscard]] std::size_t depth() const noexcept { return depth_; }

 private:
  std::string_view file_;
  JsonLimits limits_;
  std::size_t depth_ = 0, values_ = 0;
};

/// Builds the document. The library's own builder keeps the last of two equal keys, and knows no limits.
class JsonBuilder final : public JsonReceiver {
 public:
  using JsonReceiver::JsonReceiver;

  json root;

  bool null() override { return add(nullptr); }
  bool boolean(bool value) override { return add(value); }
  bool number_integer(number_integer_t value) override { return add(value); }
  bool number_unsigned(number_unsigned_t value) override { return add(value); }
  bool number_float(number_float_t value, const string_t&) override { return add(value); }
  bool string(string_t& value) override { return add(std::move(value)); }
  bool start_object(std::size_t) override { return enter(json::object()); }
  bool start_array(std::size_t) override { return enter(json::array()); }
  bool end_object() override { return leave(); }
  bool end_array() override { return leave(); }
  bool key(string_t& name) override {
    const auto [place, is_new] = open_.back()->get_ref<json::object_t&>().emplace(std::move(name), nullptr);
    if (!is_new) fail("the key occurs twice in one JSON object", place->first);
    member_ = &place->second;
    return true;
  }

 private:
  template <class Value>
  bool add(Value&& value) {
    count();
    place(json(std::forward<Value>(value)));
    return true;
  }
  json* place(json&& value) {
    json* where = &root;
    if (!open_.empty()) {
      if (open_.back()->is_array()) {
        auto& elements = open_.back()->get_ref<json::array_t&>();
        elements.push_back(std::move(value));
        return &elements.back();
      }
      where = member_;
    }
    *where = std::move(value);
    return where;
  }
  bool enter(json&& container) {
    open();
    open_.push_back(place(std::move(container)));
    return true;
  }
  bool leave() {
    close();
    open_.pop_back();
    return true;
  }

  std::vector<json*> open_;  ///< containers that have begun and not ended
  json* member_ = nullptr;   ///< where the value after a key goes
};

/// Gives the parts of `text` to `receiver`.
inline void parse_json(std::string_view text, std::string_view file, const JsonLimits& limits, JsonReceiver& receiver) {
  const auto fail = [&](std::string note) {
    throw format_error(Fault{.file = std::string(file), .field = {}, .expected = {}, .found = {}, .note = std::move(note)});
  };
  if (text.size() > limits.bytes) fail(concat("JSON has ", text.size(), " bytes, the limit is ", limits.bytes));
  // The parser takes a NUL for the end of the text.
  if (const auto nul = text.find('\0'); nul != std::string_view::npos) fail(concat("invalid JSON at byte ", nul, ": NUL"));
  nlohmann::json_sax<json>* const sax = &receiver;
  json::sax_parse(text.data(), text.data() + text.size(), sax);
}

}  // namespace detail

/// Parses one JSON document. `file` is the name that errors print.
/// Errors:  format_error with the byte position: syntax, invalid UTF-8, NaN and Infinity, a key twice in an object, over a limit.
[[nodiscard]] inline json parse_json(std::string_view text, std::string_view file, const JsonLimits& limits = {}) {
  detail::JsonBuilder builder(file, limits);
  detail::parse_json(text, file, limits, builder);
  return std::move(builder.root);
}

/// Reads a JSON file. Errors: those of MappedFile and of parse_json.
[[nodiscard]] inline json read_json(const std::string& path, const JsonLimits& limits = {}) {
  const MappedFile file(path);
  return parse_json(file.text(), path, limits);
}

/// A value of a document, present or not, with its place in words. Reading it as another type than it has is a format_error that
/// names file and dotted field, what was expected and what is there:
///
///     const JsonField config(document, path);
///     const int width = config["vision_config"]["hidden_size"].as<int>(1280);
///
/// It refers to the document and to nothing else.
class JsonField {
 public:
  JsonField(const json& document, std::string file) : value_(&document), file_(std::move(file)) {}

  /// Absent and null are the same to all of Hugging Face's files that this library reads.
  [[nodiscard]] bool present() const noexcept { return value_ != nullptr && !value_->is_null(); }
  [[nodiscard]] bool is_null() const noexcept { return value_ != nullptr && value_->is_null(); }
  [[nodiscard]] const std::string& file() const noexcept { return file_; }
  /// Keys from the root, with dots.
  [[nodiscard]] const std::string& name() const noexcept { return name_; }

  /// Member of an object; one of an absent object is absent.
  [[nodiscard]] JsonField operator[](std::string_view key) const {
    JsonField member = child(key);
    if (!present()) return member;
    if (!value_->is_object()) fail("an object");
    const auto& members = value_->get_ref<const json::object_t&>();
    if (const auto found = members.find(key); found != members.end()) member.value_ = &found->second;
    return member;
  }

  /// The value. Integers never pass through floating point and are checked against the range of T; every number is a floating
  /// point value, except those that T would round to infinity.
  template <class T>
  [[nodiscard]] T as() const {
    if constexpr (std::same_as<T, bool>) {
      if (!present() || !value_->is_boolean()) fail("true or false");
      return value_->get<bool>();
    } else if constexpr (std::integral<T>) {
      return integer<T>(std::numeric_limits<T>::min(), std::numeric_limits<T>::max());
    } else if constexpr (std::floating_point<T>) {
      if (!present() || !value_->is_number()) fail("a number");
      const T number = static_cast<T>(value_->get<double>());
      if (!std::isfinite(number)) fail("a finite number");
      return number;
    } else {
      static_assert(std::same_as<T, std::string>, "JsonField::as<T>: T is a number, bool or std::string");
      if (!present() || !value_->is_string()) fail("a string");
      return value_->get_ref<const std::string&>();
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
    if (present()) {
      if (value_->is_number_unsigned()) {
        if (const auto number = value_->get_ref<const json::number_unsigned_t&>();
            std::in_range<T>(number) && least <= static_cast<T>(number) && static_cast<T>(number) <= most)
          return static_cast<T>(number);
      } else if (value_->is_number_integer()) {
        if (const auto number = value_->get_ref<const json::number_integer_t&>();
            std::in_range<T>(number) && least <= static_cast<T>(number) && static_cast<T>(number) <= most)
          return static_cast<T>(number);
      }
    }
    fail(concat("an integer from ", least, " to ", most));
  }

  /// Elements of an array.
  [[nodiscard]] std::vector<JsonField> elements() const {
    if (!present() || !value_->is_array()) fail("an array");
    std::vector<JsonField> fields;
    const auto& values = value_->get_ref<const json::array_t&>();
    for (std::size_t i = 0; i < values.size(); ++i) {
      fields.push_back(child(concat(i)));
      fields.back().value_ = &values[i];
    }
    return fields;
  }

  [[nodiscard]] bool is_array() const noexcept { return value_ != nullptr && value_->is_array(); }
  [[nodiscard]] bool is_object() const noexcept { return value_ != nullptr && value_->is_object(); }

  /// Throws: this field is not what it should be.
  template <class Error = format_error>
  [[noreturn]] void fail(std::string expected, std::string note = {}) const {
    throw Error(
        Fault{.file = file_, .field = name_, .expected = std::move(expected), .found = describe(), .note = std::move(note)});
  }

 private:
  [[nodiscard]] JsonField child(std::string_view key) const {
    JsonField member = *this;
    member.value_ = nullptr;
    if (!member.name_.empty()) member.name_ += '.';
    member.name_ += key;
    return member;
  }

  [[nodiscard]] std::string describe() const {
    if (value_ == nullptr) return "nothing";
    switch (value_->type()) {
      case json::value_t::string:
        return concat('"', value_->get_ref<const std::string&>(), '"');
      case json::value_t::boolean:
        return concat(value_->get<bool>());
      case json::value_t::number_integer:
        return concat(value_->get_ref<const json::number_integer_t&>());
      case json::value_t::number_unsigned:
        return concat(value_->get_ref<const json::number_unsigned_t&>());
      case json::value_t::number_float:
        return concat("the floating-point number ", value_->get_ref<const json::number_float_t&>());
      case json::value_t::array:
        return concat("an array of ", value_->size());
      case json::value_t::object:
        return "an object";
      default:
        return "null";
    }
  }

  const json* value_;
  std::string file_, name_;
};

}  // namespace mllama
