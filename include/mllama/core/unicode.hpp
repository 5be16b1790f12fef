// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

/// UTF-8, as much as files, tokenizing and prompts need.

namespace mllama {

inline constexpr std::string_view replacement_character = "\xEF\xBF\xBD";  // U+FFFD

/// What stands at one place of a text: a code point, or bytes that are none.
struct CodePoint {
  enum class Kind : unsigned char {
    valid,    ///< a code point of `length` bytes
    invalid,  ///< a maximal subpart of an ill-formed sequence; the next byte cannot continue it
    cut,      ///< the text ends where `length` bytes could still become a code point
  };
  std::uint32_t value = 0xFFFD;  ///< U+FFFD unless valid
  unsigned length = 0;           ///< in bytes
  Kind kind = Kind::cut;
};

/// Reads one code point of `text` at byte `at` < text.size().
/// Source:  The Unicode Standard, table 3-7 (well-formed sequences) and "U+FFFD substitution of maximal subparts" in 3.9.
[[nodiscard]] constexpr CodePoint code_point_at(std::string_view text, std::size_t at) noexcept {
  const auto byte = [text](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned lead = byte(at);
  if (lead < 0x80) return {lead, 1, CodePoint::Kind::valid};
  const unsigned length = lead >= 0xC2 && lead <= 0xDF   ? 2
                          : lead >= 0xE0 && lead <= 0xEF ? 3
                          : lead >= 0xF0 && lead <= 0xF4 ? 4
                                                         : 0;
  if (length == 0) return {0xFFFD, 1, CodePoint::Kind::invalid};
  std::uint32_t value = lead & (0x7FU >> length);
  unsigned lowest = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;   // no overlong forms
  unsigned highest = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;  // no surrogates, nothing above U+10FFFF
  for (unsigned i = 1; i < length; ++i) {
    if (at + i == text.size()) return {0xFFFD, i, CodePoint::Kind::cut};
    const unsigned next = byte(at + i);
    if (next < lowest || next > highest) return {0xFFFD, i, CodePoint::Kind::invalid};
    value = value << 6U | (next & 0x3FU);
    lowest = 0x80;
    highest = 0xBF;
  }
  return {value, length, CodePoint::Kind::valid};
}

/// Appends the UTF-8 form of a code point that is not a surrogate.
inline void append_utf8(std::string& out, std::uint32_t code_point) {
  const auto put = [&out](std::uint32_t byte) { out += static_cast<char>(byte); };
  if (code_point < 0x80) return put(code_point);
  if (code_point < 0x800) {
    put(0xC0U | code_point >> 6U);
  } else {
    if (code_point < 0x10000) {
      put(0xE0U | code_point >> 12U);
    } else {
      put(0xF0U | code_point >> 18U);
      put(0x80U | (code_point >> 12U & 0x3FU));
    }
    put(0x80U | (code_point >> 6U & 0x3FU));
  }
  put(0x80U | (code_point & 0x3FU));
}

/// The number of bytes at the start of `text` that are well-formed UTF-8; all of them for most texts.
[[nodiscard]] inline std::size_t valid_utf8_length(std::string_view text) noexcept {
  std::size_t at = 0;
  while (at < text.size()) {
    std::uint64_t eight = 0;
    if (text.size() - at >= sizeof eight) {
      std::memcpy(&eight, text.data() + at, sizeof eight);
      if ((eight & 0x8080808080808080U) == 0) {
        at += sizeof eight;
        continue;
      }
    }
    const CodePoint next = code_point_at(text, at);
    if (next.kind != CodePoint::Kind::valid) break;
    at += next.length;
  }
  return at;
}

/// `text` with U+FFFD in place of each maximal subpart that is not UTF-8, as Python's `errors="replace"` and Rust's
/// `from_utf8_lossy` do.
[[nodiscard]] inline std::string to_valid_utf8(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (;;) {
    const std::size_t valid = valid_utf8_length(text);
    out += text.substr(0, valid);
    text.remove_prefix(valid);
    if (text.empty()) return out;
    out += replacement_character;
    text.remove_prefix(code_point_at(text, 0).length);
  }
}

namespace detail {

/// What Python's str.isspace() holds for white space: White_Space of Unicode and the four information separators.
constexpr bool is_python_space(std::uint32_t c) noexcept {
  return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

}  // namespace detail

/// `text` without the white space at both ends; Python's `str.strip()`, Jinja's `trim`.
[[nodiscard]] constexpr std::string_view trim(std::string_view text) noexcept {
  while (!text.empty()) {
    const CodePoint first = code_point_at(text, 0);
    if (!detail::is_python_space(first.value)) break;
    text.remove_prefix(first.length);
  }
  while (!text.empty()) {
    std::size_t at = text.size() - 1;
    while (at > 0 && text.size() - at < 4 && (static_cast<unsigned char>(text[at]) & 0xC0U) == 0x80U) --at;
    const CodePoint last = code_point_at(text, at);
    if (at + last.length != text.size() || !detail::is_python_space(last.value)) break;
    text.remove_suffix(last.length);
  }
  return text;
}

}  // namespace mllama
