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

/// Patterns that take time in proportion to the text, as one can see; of other ones nothing is known.
inline constexpr std::string_view
    gpt2_pattern = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)",
    llama3_pattern =
        R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

/// The regular expression that cuts text into pieces before byte-pair encoding: tokenizers' `Split` with behaviour "Isolated".
/// Tokenizer files are written for Oniguruma. What both engines spell alike is taken; `\s` and `\S` are rewritten, since PCRE2
/// counts U+180E as white space and Unicode does not; escapes that mean something else there are refused.
/// Matching takes time in proportion to the text, whatever the pattern: see Matcher.
template <class = void>  // a template, so that bodies are compiled where they are used and not with every include
class BasicSplitPattern {
  static constexpr std::size_t longest_pattern = 4096;
  static constexpr std::uint32_t heap_kibibytes = 64 * 1024;

  struct Free {
    void operator()(pcre2_code_8* p) const noexcept { pcre2_code_free_8(p); }
    void operator()(pcre2_compile_context_8* p) const noexcept { pcre2_compile_context_free_8(p); }
    void operator()(pcre2_match_data_8* p) const noexcept { pcre2_match_data_free_8(p); }
    void operator()(pcre2_match_context_8* p) const noexcept { pcre2_match_context_free_8(p); }
  };

  using Code = std::unique_ptr<pcre2_code_8, Free>;

 public:
  /// Errors:  format_error with `file` and `field` when the pattern cannot be used.
  BasicSplitPattern(std::string_view pattern, std::string_view file, std::string_view field)
      : is_known_(pattern == gpt2_pattern || pattern == llama3_pattern) {
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

    // A line begins after a line feed, but not at the end of the text; the end of a part is not the end of the text.
    whole_ = compile(rewritten, 0, PCRE2_JIT_COMPLETE, fail);
    part_ = compile(rewritten, PCRE2_ALT_CIRCUMFLEX, PCRE2_JIT_PARTIAL_HARD, fail);
  }

  /// What one thread needs to match; may be kept for many texts.
  ///
  /// The engine counts steps, but a step may pass over all of the text that it is shown, and every piece is a search of its own. So
  /// it is shown a window, which grows only as long as a match reaches its end, and how far searches reach is limited in all. An
  /// honest pattern reaches little further than the pieces that it makes.
  class Matcher {
   public:
    /// `window`: bytes that a search is shown at first. Which pieces there are does not depend on it.
    explicit Matcher(const BasicSplitPattern& pattern, std::size_t window = 128)
        : whole_(pattern.whole_.get()),
          part_(pattern.part_.get()),
          is_known_(pattern.is_known_),
          match_(pcre2_match_data_create_8(1, nullptr)),
          context_(pcre2_match_context_create_8(nullptr)),
          window_(window) {
      if (match_ == nullptr || context_ == nullptr) throw std::bad_alloc();
      pcre2_set_heap_limit_8(context_.get(), heap_kibibytes);
    }

    /// Calls `piece(std::string_view)` for the matches and for what lies between them, in order: the whole of `text`, which
    /// must be well-formed UTF-8.
    /// Errors:  input_error when the pattern needs more steps or memory than it is allowed, or reaches too far too often.
    template <class Piece>
    void for_each_piece(std::string_view text, Piece&& piece) {
      const auto emit = [&](std::size_t begin, std::size_t end) {
        if (begin < end) piece(text.substr(begin, end - begin));
      };
      std::size_t done = 0;
      reach_left_ = base_reach + reach_per_byte * text.size();
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
    static constexpr std::size_t base_reach = std::size_t{1} << 16U, reach_per_byte = 4;
    // Runs of white space make an honest pattern try each of their ends: those of an unknown one may be 32 KiB long.
    static constexpr std::size_t base_steps = 1000, steps_per_byte = 8;
    static constexpr std::size_t steps_times_bytes = std::size_t{1} << 30U, least_steps = 64;

    [[noreturn]] static void fail(std::string_view why) {
      throw input_error(Fault{.field = "text", .note = concat("the tokenizer's pattern cannot split it: ", why)});
    }

    /// The first match at `from` or after it.
    std::pair<std::size_t, std::size_t> search(std::string_view text, std::size_t from) {
      for (std::size_t window = window_;;) {
        std::size_t end = text.size() - from > window ? from + window : text.size();
        while (end < text.size() && (static_cast<unsigned char>(text[end]) & 0xC0U) == 0x80U) ++end;
        const bool is_whole = end == text.size();
        const int status = is_whole ? run(whole_, text, from, 0) : run(part_, text.substr(0, end), from, PCRE2_PARTIAL_HARD);
        if (status == PCRE2_ERROR_PARTIAL) {
          window *= 2;
          if (window > reach_left_) fail("it looks too far ahead");
          reach_left_ -= window;
        } else if (status == PCRE2_ERROR_NOMATCH) {
          if (is_whole) return {text.npos, text.npos};
          from = end;
          window = window_;
        } else {
          const PCRE2_SIZE* const range = pcre2_get_ovector_pointer_8(match_.get());
          if (status < 0) fail(message(status));
          if (range[0] < from || range[1] < range[0]) fail("match out of order");
          return {range[0], range[1]};
        }
      }
    }

    int run(const pcre2_code_8* code, std::string_view text, std::size_t from, std::uint32_t options) {
      const std::size_t window = text.size() - from;
      std::size_t steps = base_steps + steps_per_byte * window;
      if (!is_known_) steps = std::min(steps, std::max(least_steps, steps_times_bytes / window));
      pcre2_set_match_limit_8(context_.get(), static_cast<std::uint32_t>(std::min<std::size_t>(steps, UINT32_MAX)));
      const auto match = [&](std::uint32_t more) {
        return pcre2_match_8(code, reinterpret_cast<PCRE2_SPTR8>(text.data()), text.size(), from,
                             PCRE2_NO_UTF_CHECK | options | more, match_.get(), context_.get());
      };
      const int status = match(0);
      return status == PCRE2_ERROR_JIT_STACKLIMIT ? match(PCRE2_NO_JIT) : status;
    }

    const pcre2_code_8 *whole_, *part_;
    bool is_known_;
    std::unique_ptr<pcre2_match_data_8, Free> match_;
    std::unique_ptr<pcre2_match_context_8, Free> context_;
    std::size_t window_, reach_left_ = 0;  ///< bytes
  };

 private:
  template <class Fail>
  static Code compile(const std::string& pattern, std::uint32_t option, std::uint32_t jit, Fail&& fail) {
    const std::unique_ptr<pcre2_compile_context_8, Free> context(pcre2_compile_context_create_8(nullptr));
    if (context == nullptr) throw std::bad_alloc();
    pcre2_set_newline_8(context.get(), PCRE2_NEWLINE_LF);
    int error_code = 0;
    PCRE2_SIZE error_at = 0;
    // MULTILINE: in Oniguruma's default syntax ^ and $ hold at every line.
    const std::uint32_t options = PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C | option;
    Code code(pcre2_compile_8(reinterpret_cast<PCRE2_SPTR8>(pattern.data()), pattern.size(), options, &error_code, &error_at,
                              context.get()));
    if (code == nullptr) fail(concat(message(error_code), " in the pattern at about byte ", error_at));
    // Where there is no just-in-time compiler, or it may not make code executable, the pattern is interpreted.
    static_cast<void>(pcre2_jit_compile_8(code.get(), jit));
    return code;
  }

  static std::string message(int code) {
    PCRE2_UCHAR8 buffer[256];
    const int length = pcre2_get_error_message_8(code, buffer, sizeof buffer);
    return length < 0 ? concat("PCRE2 error ", code) : std::string(buffer, buffer + length);
  }

  Code whole_, part_;  ///< for the whole text, or the rest of it, and for a part that more text follows
  bool is_known_;
};
using SplitPattern = BasicSplitPattern<>;

}  // namespace mllama
