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
#include <mllama/core/unicode.hpp>

namespace mllama {

/// The regular expression that cuts text into pieces before byte-pair encoding: tokenizers' `Split` with behaviour "Isolated".
/// Tokenizer files are written for Oniguruma. What both engines spell alike is taken; `\s` and `\S` are rewritten, since PCRE2
/// counts U+180E as white space and Unicode does not; escapes that mean something else there are refused.
/// Matching cannot hang: steps are limited in proportion to the text.
template <class = void>  // a template, so that bodies are compiled where they are used and not with every include
class BasicSplitPattern {
  static constexpr std::size_t longest_pattern = 4096;
  static constexpr std::size_t base_steps = 50'000, steps_per_byte = 16;
  static constexpr std::uint32_t heap_kibibytes = 64 * 1024;

  struct Free {
    void operator()(pcre2_code_8* p) const noexcept { pcre2_code_free_8(p); }
    void operator()(pcre2_compile_context_8* p) const noexcept { pcre2_compile_context_free_8(p); }
    void operator()(pcre2_match_data_8* p) const noexcept { pcre2_match_data_free_8(p); }
    void operator()(pcre2_match_context_8* p) const noexcept { pcre2_match_context_free_8(p); }
  };

 public:
  /// Errors:  format_error with `file` and `field` when the pattern cannot be used.
  BasicSplitPattern(std::string_view pattern, std::string_view file, std::string_view field) {
    const auto fail = [&](std::string note) {
      throw format_error(Fault{.file = std::string(file), .field = std::string(field), .note = std::move(note)});
    };
    if (pattern.size() > longest_pattern) fail(concat("a pattern has at most ", longest_pattern, " bytes"));
    std::string rewritten;
    for (std::size_t i = 0; i < pattern.size(); ++i) {
      rewritten += pattern[i];
      if (pattern.substr(i, 2) == "&&") fail("the operator && is not supported");
      if (pattern.substr(i, 2) == "(*") fail("verbs, as in (*F), are not supported");
      if (pattern[i] != '\\' || ++i == pattern.size()) continue;
      const char c = pattern[i];
      const bool letter_or_digit = (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z');
      if (letter_or_digit && std::string_view("dDfnpPrsStx").find(c) == std::string_view::npos)
        fail(concat("the escape \\", c, " is not supported"));
      if (c == 's' || c == 'S') {
        rewritten += c == 's' ? "p{White_Space}" : "P{White_Space}";
      } else {
        rewritten += c;
      }
    }

    const std::unique_ptr<pcre2_compile_context_8, Free> context(pcre2_compile_context_create_8(nullptr));
    if (context == nullptr) throw std::bad_alloc();
    pcre2_set_newline_8(context.get(), PCRE2_NEWLINE_LF);
    int error_code = 0;
    PCRE2_SIZE error_at = 0;
    // MULTILINE: in Oniguruma's default syntax ^ and $ hold at every line.
    const std::uint32_t options = PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C;
    code_.reset(pcre2_compile_8(reinterpret_cast<PCRE2_SPTR8>(rewritten.data()), rewritten.size(), options, &error_code, &error_at,
                                context.get()));
    if (code_ == nullptr) fail(concat(message(error_code), " in the pattern at about byte ", error_at));
    // Where there is no just-in-time compiler, or it may not make code executable, the pattern is interpreted.
    static_cast<void>(pcre2_jit_compile_8(code_.get(), PCRE2_JIT_COMPLETE));
  }

  /// What one thread needs to match; may be kept for many texts.
  class Matcher {
   public:
    explicit Matcher(const BasicSplitPattern& pattern)
        : code_(pattern.code_.get()),
          match_(pcre2_match_data_create_8(1, nullptr)),
          context_(pcre2_match_context_create_8(nullptr)) {
      if (match_ == nullptr || context_ == nullptr) throw std::bad_alloc();
      pcre2_set_heap_limit_8(context_.get(), heap_kibibytes);
    }

    /// Calls `piece(std::string_view)` for the matches and for what lies between them, in order: the whole of `text`, which
    /// must be well-formed UTF-8.
    /// Errors:  input_error when the pattern needs more steps or memory than it is allowed.
    template <class Piece>
    void for_each_piece(std::string_view text, Piece&& piece) {
      // Runs of white space make an honest pattern try each of their ends.
      const std::size_t steps = base_steps + steps_per_byte * text.size();
      pcre2_set_match_limit_8(context_.get(), static_cast<std::uint32_t>(std::min<std::size_t>(steps, UINT32_MAX)));
      const auto emit = [&](std::size_t begin, std::size_t end) {
        if (begin < end) piece(text.substr(begin, end - begin));
      };
      std::size_t done = 0;
      for (std::size_t from = 0; from < text.size();) {
        const auto [begin, end] = search(text, from);
        if (begin == text.npos) break;
        emit(done, begin);
        emit(begin, end);
        done = end;
        // An empty match cuts the text and moves on by a code point.
        from = end > from ? end : end + (end < text.size() ? code_point_at(text, end).length : 1);
      }
      emit(done, text.size());
    }

   private:
    std::pair<std::size_t, std::size_t> search(std::string_view text, std::size_t from) {
      const auto run = [&](std::uint32_t options) {
        return pcre2_match_8(code_, reinterpret_cast<PCRE2_SPTR8>(text.data()), text.size(), from, PCRE2_NO_UTF_CHECK | options,
                             match_.get(), context_.get());
      };
      int status = run(0);
      if (status == PCRE2_ERROR_JIT_STACKLIMIT) status = run(PCRE2_NO_JIT);
      if (status == PCRE2_ERROR_NOMATCH) return {text.npos, text.npos};
      const PCRE2_SIZE* const range = pcre2_get_ovector_pointer_8(match_.get());
      if (status < 0 || range[0] < from || range[1] < range[0])
        throw input_error(Fault{
            .field = "text",
            .note = concat("the tokenizer's pattern cannot split it: ", status < 0 ? message(status) : "match out of order")});
      return {range[0], range[1]};
    }

    const pcre2_code_8* code_;
    std::unique_ptr<pcre2_match_data_8, Free> match_;
    std::unique_ptr<pcre2_match_context_8, Free> context_;
  };

 private:
  static std::string message(int code) {
    PCRE2_UCHAR8 buffer[256];
    const int length = pcre2_get_error_message_8(code, buffer, sizeof buffer);
    return length < 0 ? concat("PCRE2 error ", code) : std::string(buffer, buffer + length);
  }

  std::unique_ptr<pcre2_code_8, Free> code_;
};
using SplitPattern = BasicSplitPattern<>;

}  // namespace mllama
