// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <string>
#include <string_view>
#include <utility>

#ifndef PCRE2_CODE_UNIT_WIDTH
#define PCRE2_CODE_UNIT_WIDTH 8
#endif
#include <pcre2.h>

#include <mllama/core/check.hpp>

/// Regular expressions of untrusted files, over UTF-8, by PCRE2. They were written for another engine (Python's, Oniguruma): whoever
/// reads them names the escapes that both understand alike, and all others are refused.

namespace mllama {

namespace detail {

struct FreePattern {
  void operator()(pcre2_code_8* p) const noexcept { pcre2_code_free_8(p); }
  void operator()(pcre2_compile_context_8* p) const noexcept { pcre2_compile_context_free_8(p); }
  void operator()(pcre2_match_data_8* p) const noexcept { pcre2_match_data_free_8(p); }
  void operator()(pcre2_match_context_8* p) const noexcept { pcre2_match_context_free_8(p); }
};
using PatternCode = std::unique_ptr<pcre2_code_8, FreePattern>;

inline std::string pattern_message(int code) {
  PCRE2_UCHAR8 buffer[256];
  const int length = pcre2_get_error_message_8(code, buffer, sizeof buffer);
  return length < 0 ? concat("PCRE2 error ", code) : std::string(buffer, buffer + length);
}

/// Calls `fail(why)`, which must throw, for a pattern that is too long or means something else to its engine than to PCRE2.
/// `escapes` are the letters and digits that may follow a backslash.
template <class Fail>
void check_pattern(std::string_view pattern, std::string_view escapes, Fail&& fail) {
  constexpr std::size_t longest = 4096;
  if (pattern.size() > longest) fail(concat("a pattern has at most ", longest, " bytes"));
  for (std::size_t i = 0; i < pattern.size(); ++i) {
    if (pattern.substr(i, 2) == "(*") fail(std::string("verbs, as in (*F), are not supported"));
    if (pattern[i] != '\\' || ++i == pattern.size()) continue;
    const char c = pattern[i];
    const bool letter_or_digit = (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z');
    if (letter_or_digit && escapes.find(c) == std::string_view::npos) fail(concat("the escape \\", c, " is not supported"));
  }
}

/// A checked pattern; `options` of PCRE2 beyond those for UTF-8, and those of its just-in-time compiler, if it is to be used.
template <class Fail>
PatternCode compile_pattern(std::string_view pattern, std::uint32_t options, std::uint32_t jit, Fail&& fail) {
  const std::unique_ptr<pcre2_compile_context_8, FreePattern> context(pcre2_compile_context_create_8(nullptr));
  if (context == nullptr) throw std::bad_alloc();
  pcre2_set_newline_8(context.get(), PCRE2_NEWLINE_LF);
  int error_code = 0;
  PCRE2_SIZE error_at = 0;
  PatternCode code(pcre2_compile_8(reinterpret_cast<PCRE2_SPTR8>(pattern.data()), pattern.size(),
                                   PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C | options, &error_code, &error_at,
                                   context.get()));
  if (code == nullptr) fail(concat(pattern_message(error_code), " in the pattern at about byte ", error_at));
  // Where there is no just-in-time compiler, or it may not make code executable, the pattern is interpreted.
  if (jit != 0) static_cast<void>(pcre2_jit_compile_8(code.get(), jit));
  return code;
}

/// What one thread needs to match; may be kept for many patterns and texts.
class PatternMatch {
 public:
  PatternMatch() : data_(pcre2_match_data_create_8(1, nullptr)), context_(pcre2_match_context_create_8(nullptr)) {
    if (data_ == nullptr || context_ == nullptr) throw std::bad_alloc();
    pcre2_set_heap_limit_8(context_.get(), heap_kibibytes);
  }

  /// Looks for the first match from byte `from` of a well-formed text on, with at most so many steps of PCRE2. Returns its status:
  /// not negative where there is a match.
  int search(const pcre2_code_8* code, std::string_view text, std::size_t from, std::size_t steps, std::uint32_t options = 0) {
    pcre2_set_match_limit_8(context_.get(), static_cast<std::uint32_t>(std::min<std::size_t>(steps, UINT32_MAX)));
    const auto run = [&](std::uint32_t more) {
      return pcre2_match_8(code, reinterpret_cast<PCRE2_SPTR8>(text.data()), text.size(), from, PCRE2_NO_UTF_CHECK | options | more,
                           data_.get(), context_.get());
    };
    const int status = run(0);
    return status == PCRE2_ERROR_JIT_STACKLIMIT ? run(PCRE2_NO_JIT) : status;
  }
  /// The last match, as [begin, end).
  [[nodiscard]] std::pair<std::size_t, std::size_t> range() const noexcept {
    const PCRE2_SIZE* const ends = pcre2_get_ovector_pointer_8(data_.get());
    return {ends[0], ends[1]};
  }

 private:
  static constexpr std::uint32_t heap_kibibytes = 64 * 1024;
  std::unique_ptr<pcre2_match_data_8, FreePattern> data_;
  std::unique_ptr<pcre2_match_context_8, FreePattern> context_;
};

}  // namespace detail

/// What it takes to match the patterns of one file, of which there may be many, each of them slow.
struct PatternWork {
  std::size_t steps_left = std::size_t{1} << 29U;  ///< of PCRE2: seconds
  detail::PatternMatch match = {};
};

/// A pattern of Python's that short texts, names say, either match at their beginning or do not.
template <class = void>  // a template, so that bodies are compiled where they are used and not with every include
class BasicPattern {
 public:
  /// Errors:  format_error with `file` and `field` when the pattern cannot be used.
  BasicPattern(std::string_view pattern, std::string_view file, std::string_view field)
      : place_{.file = std::string(file), .field = std::string(field)} {
    const auto refuse = [this](std::string why) { fail(std::move(why)); };
    detail::check_pattern(pattern, "AbBdDfnrsStwWxZ", refuse);
    code_ = detail::compile_pattern(pattern, PCRE2_ANCHORED, 0, refuse);
  }

  /// `re.match(pattern, text)`. Matching ends: its steps are limited.
  /// Errors:  format_error when that takes too many steps or too much memory, or no steps are left.
  [[nodiscard]] bool matches(std::string_view text, PatternWork& work) const {
    int status = PCRE2_ERROR_MATCHLIMIT;
    for (const std::size_t steps : {1'000U, 10'000U}) {          // a name takes few
      const std::size_t cost = steps * (1 + text.size() / 256);  // a step may pass over all of the text
      if (work.steps_left < cost) fail("all patterns of the file together take too many steps");
      work.steps_left -= cost;
      status = work.match.search(code_.get(), text, 0, steps);
      if (status != PCRE2_ERROR_MATCHLIMIT) break;
    }
    if (status < 0 && status != PCRE2_ERROR_NOMATCH)
      fail(concat("the pattern cannot be matched with ", text, ": ", detail::pattern_message(status)));
    return status >= 0;
  }

 private:
  [[noreturn]] void fail(std::string why) const {
    Fault fault = place_;
    fault.note = std::move(why);
    throw format_error(std::move(fault));
  }

  Fault place_;
  detail::PatternCode code_;
};
using Pattern = BasicPattern<>;
#if defined(MLLAMA_ELSEWHERE)
extern template class BasicPattern<>;
#endif

}  // namespace mllama
