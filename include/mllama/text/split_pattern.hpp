// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include <mllama/core/check.hpp>
#include <mllama/core/unicode.hpp>
#include <mllama/text/pattern.hpp>

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
 public:
  /// Errors:  format_error with `file` and `field` when the pattern cannot be used.
  BasicSplitPattern(std::string_view pattern, std::string_view file, std::string_view field)
      : is_known_(pattern == gpt2_pattern || pattern == llama3_pattern) {
    const auto fail = [&](std::string note) {
      throw format_error(Fault{.file = std::string(file), .field = std::string(field), .note = std::move(note)});
    };
    detail::check_pattern(pattern, "dDfnpPrsStx", fail);
    std::string rewritten;
    for (std::size_t i = 0; i < pattern.size(); ++i) {
      rewritten += pattern[i];
      if (pattern.substr(i, 2) == "&&") fail("the operator && is not supported");
      if (pattern[i] != '\\' || ++i == pattern.size()) continue;
      const char c = pattern[i];
      if (c == 's' || c == 'S') {
        rewritten += c == 's' ? "p{White_Space}" : "P{White_Space}";
      } else {
        rewritten += c;
      }
    }

    // A line begins after a line feed, but not at the end of the text; the end of a part is not the end of the text.
    // MULTILINE: in Oniguruma's default syntax ^ and $ hold at every line.
    whole_ = detail::compile_pattern(rewritten, PCRE2_MULTILINE, PCRE2_JIT_COMPLETE, fail);
    part_ = detail::compile_pattern(rewritten, PCRE2_MULTILINE | PCRE2_ALT_CIRCUMFLEX, PCRE2_JIT_PARTIAL_HARD, fail);
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
        : whole_(pattern.whole_.get()), part_(pattern.part_.get()), is_known_(pattern.is_known_), window_(window) {}

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
          if (status < 0) fail(detail::pattern_message(status));
          const auto range = match_.range();
          if (range.first < from || range.second < range.first) fail("match out of order");
          return range;
        }
      }
    }

    int run(const pcre2_code_8* code, std::string_view text, std::size_t from, std::uint32_t options) {
      const std::size_t window = text.size() - from;
      std::size_t steps = base_steps + steps_per_byte * window;
      if (!is_known_) steps = std::min(steps, std::max(least_steps, steps_times_bytes / window));
      return match_.search(code, text, from, steps, options);
    }

    const pcre2_code_8 *whole_, *part_;
    bool is_known_;
    detail::PatternMatch match_;
    std::size_t window_, reach_left_ = 0;  ///< bytes
  };

 private:
  detail::PatternCode whole_, part_;  ///< for the whole text, or the rest of it, and for a part that more text follows
  bool is_known_;
};
using SplitPattern = BasicSplitPattern<>;
#if defined(MLLAMA_ELSEWHERE)
extern template class BasicSplitPattern<>;
#endif

}  // namespace mllama
