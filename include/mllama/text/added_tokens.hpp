// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace mllama {

/// Finds added tokens in raw text: the leftmost, and of those that begin there the longest.
template <class = void>  // a template, so that bodies are compiled where they are used and not with every include
class BasicAddedTokens {
 public:
  struct Token {
    std::string content;  ///< not empty
    std::int32_t id = 0;
  };

  explicit BasicAddedTokens(std::vector<Token> tokens = {}) : tokens_(std::move(tokens)) {
    std::sort(tokens_.begin(), tokens_.end(), [](const Token& a, const Token& b) { return a.content < b.content; });
    for (const Token& token : tokens_) starts_[static_cast<unsigned char>(token.content.front())] = true;
  }

  [[nodiscard]] std::optional<std::int32_t> find(std::string_view content) const noexcept {
    const auto at = std::partition_point(tokens_.begin(), tokens_.end(), [&](const Token& t) { return t.content < content; });
    if (at == tokens_.end() || at->content != content) return std::nullopt;
    return at->id;
  }

  /// Calls `found(id)` for each token found in `text` and `between(std::string_view)` for the text around, which is not empty.
  template <class Found, class Between>
  void split(std::string_view text, Found&& found, Between&& between) const {
    std::size_t done = 0;
    for (std::size_t at = 0; at < text.size();) {
      const Token* const match = starts_[static_cast<unsigned char>(text[at])] ? longest_at(text.substr(at)) : nullptr;
      if (match == nullptr) {
        ++at;
        continue;
      }
      if (done < at) between(text.substr(done, at - done));
      found(match->id);
      done = at += match->content.size();
    }
    if (done < text.size()) between(text.substr(done));
  }

 private:
  /// Narrows the sorted list byte by byte to the tokens that begin as `text` does.
  [[nodiscard]] const Token* longest_at(std::string_view text) const noexcept {
    const Token* longest = nullptr;
    auto first = tokens_.begin(), last = tokens_.end();
    for (std::size_t depth = 0; first != last; ++depth) {
      if (first->content.size() == depth) longest = &*first++;
      if (depth == text.size()) break;
      const auto byte = [depth](const Token& t) { return static_cast<unsigned char>(t.content[depth]); };
      const auto wanted = static_cast<unsigned char>(text[depth]);
      first = std::partition_point(first, last, [&](const Token& t) { return byte(t) < wanted; });
      last = std::partition_point(first, last, [&](const Token& t) { return byte(t) == wanted; });
    }
    return longest;
  }

  std::vector<Token> tokens_;  // sorted by content
  std::array<bool, 256> starts_{};
};
using AddedTokens = BasicAddedTokens<>;
#if defined(MLLAMA_ELSEWHERE)
extern template class BasicAddedTokens<>;
#endif

}  // namespace mllama
