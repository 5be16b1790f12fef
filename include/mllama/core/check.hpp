// SPDX-License-Identifier: MIT
#pragma once

#include <charconv>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

/// Run-time errors. Everything that can go wrong while a file is read, a prompt is prepared or a call is checked at the API's
/// door throws a class derived from `mllama::error`; nothing below the door throws.

namespace mllama {

namespace detail {

/// An argument of `concat`. One type for all of them, so that there is one function to compile and not one per combination.
class Part {
 public:
  Part(std::string_view text) : kind_(Kind::text), text_(text) {}            // NOLINT(google-explicit-constructor)
  Part(const std::string& text) : kind_(Kind::text), text_(text) {}          // NOLINT(google-explicit-constructor)
  Part(const char* text) : kind_(Kind::text), text_(text) {}                 // NOLINT(google-explicit-constructor)
  Part(char c) : kind_(Kind::character), character_(c) {}                    // NOLINT(google-explicit-constructor)
  Part(bool value) : Part(value ? "true" : "false") {}                       // NOLINT(google-explicit-constructor)
  Part(int value) : kind_(Kind::integer), integer_(value) {}                 // NOLINT(google-explicit-constructor)
  Part(long value) : kind_(Kind::integer), integer_(value) {}                // NOLINT(google-explicit-constructor)
  Part(long long value) : kind_(Kind::integer), integer_(value) {}           // NOLINT(google-explicit-constructor)
  Part(unsigned value) : kind_(Kind::natural), natural_(value) {}            // NOLINT(google-explicit-constructor)
  Part(unsigned long value) : kind_(Kind::natural), natural_(value) {}       // NOLINT(google-explicit-constructor)
  Part(unsigned long long value) : kind_(Kind::natural), natural_(value) {}  // NOLINT(google-explicit-constructor)
  Part(float value) : kind_(Kind::single), single_(value) {}                 // NOLINT(google-explicit-constructor)
  Part(double value) : kind_(Kind::real), real_(value) {}                    // NOLINT(google-explicit-constructor)

  void append_to(std::string& out) const {
    char digits[64];
    char* const end = digits + sizeof digits;
    switch (kind_) {
      case Kind::text:
        out += text_;
        break;
      case Kind::character:
        out += character_;
        break;
      case Kind::integer:
        out.append(digits, std::to_chars(digits, end, integer_).ptr);
        break;
      case Kind::natural:
        out.append(digits, std::to_chars(digits, end, natural_).ptr);
        break;
      case Kind::single:
        out.append(digits, std::to_chars(digits, end, single_).ptr);
        break;
      case Kind::real:
        out.append(digits, std::to_chars(digits, end, real_).ptr);
        break;
    }
  }

 private:
  enum class Kind : unsigned char { text, character, integer, natural, single, real };

  Kind kind_;
  std::string_view text_;  // not in the union, where GCC 12 would think it read without a value
  union {
    char character_;
    long long integer_;
    unsigned long long natural_;
    float single_;
    double real_;
  };
};

inline std::string joined(std::initializer_list<Part> parts) {
  std::string out;
  for (const Part& part : parts) part.append_to(out);
  return out;
}

}  // namespace detail

/// Its arguments (text, characters, numbers, truth values) written one after the other.
template <class... Parts>
[[nodiscard]] std::string concat(const Parts&... parts) {
  return detail::joined({parts...});
}

/// What an error knows: each part may be empty. The message is one line, `file: field: expected …, found …`.
struct Fault {
  std::string file = {};      ///< path of the file, or what was read instead of one
  std::string field = {};     ///< tensor, configuration field, argument
  std::string expected = {};  ///< what would have been right
  std::string found = {};     ///< what was there
  std::string note = {};      ///< a sentence when expected and found do not say it, or what to do about it
};

/// Base of all exceptions of this library.
class error : public std::runtime_error {
 public:
  explicit error(Fault fault) : std::runtime_error(message(fault)), fault_(std::move(fault)) {}
  explicit error(std::string note) : error(Fault{.note = std::move(note)}) {}

  [[nodiscard]] const Fault& fault() const noexcept { return fault_; }

 private:
  /// File names and keys may come from hostile files: a message stays on its line and cannot steer a terminal.
  static std::string printable(std::string_view text) {
    std::string out;
    for (const char c : text.substr(0, 500)) {
      const auto byte = static_cast<unsigned char>(c);
      if (byte >= 0x20 && byte != 0x7f) {
        out += c;
      } else {
        static constexpr std::string_view hex = "0123456789abcdef";
        out += "\\x";
        out += hex[byte >> 4U];
        out += hex[byte & 15U];
      }
    }
    if (text.size() > 500) out += "...";
    return out;
  }

  static std::string message(const Fault& fault) {
    std::string out;
    const auto add = [&out](std::string_view separator, std::string_view part) {
      if (part.empty()) return;
      if (!out.empty()) out += separator;
      out += printable(part);
    };
    add("", fault.file);
    add(": ", fault.field);
    if (!fault.expected.empty()) add(": ", concat("expected ", fault.expected));
    if (!fault.found.empty()) add(fault.expected.empty() ? ": " : ", ", concat("found ", fault.found));
    add(": ", fault.note);
    return out;
  }

  Fault fault_;
};

/// A file cannot be opened, read, mapped or written.
class file_error : public error {
  using error::error;
};

/// A file's bytes break the rules of its format (safetensors, JSON, image).
class format_error : public error {
  using error::error;
};

/// A checkpoint's configuration does not fit the model type.
class config_error : public error {
  using error::error;
};

/// A tensor is missing, has another shape or another type than its place in the model.
class shape_error : public error {
  using error::error;
};

/// An argument of a call: prompt, picture, ids, masks, sampling settings.
class input_error : public error {
  using error::error;
};

/// A model does not fit in memory.
class memory_error : public error {
  using error::error;
};

/// Throws an `Error` unless `holds`. The fault is built only when it is needed.
template <class Error = input_error, class MakeFault>
void check(bool holds, MakeFault&& make_fault) {
  if (!holds) [[unlikely]]
    throw Error(std::forward<MakeFault>(make_fault)());
}

}  // namespace mllama
