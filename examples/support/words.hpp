// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <mllama/core/check.hpp>

namespace support {

/// A word of an answer, and the tokens that spell it.
struct Word {
  std::string text;
  std::size_t first = 0, count = 0;
};

/// The words that the texts of tokens make together: one begins with white space, and goes on with anything but punctuation, which is
/// part of none. Tokens without text, as the end of an answer, may be among them.
inline std::vector<Word> words_of(std::span<const std::string> tokens) {
  const auto is_space = [](char c) { return c == ' ' || (c >= '\t' && c <= '\r'); };
  const auto is_of_word = [](char c) {
    const auto byte = static_cast<unsigned char>(c);
    return byte >= 0x80 || (byte >= '0' && byte <= '9') || ((byte | 0x20U) >= 'a' && (byte | 0x20U) <= 'z') || c == '\'' ||
           c == '-';
  };
  std::vector<Word> words;
  bool open = false;
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    std::string_view text = tokens[i];
    if (!text.empty() && is_space(text.front())) open = false;
    while (!text.empty() && is_space(text.front())) text.remove_prefix(1);
    while (!text.empty() && !is_of_word(text.back())) text.remove_suffix(1);
    if (text.empty()) {
      open = false;
      continue;
    }
    if (!std::exchange(open, true)) words.push_back({{}, i, 0});
    words.back().text += text;
    ++words.back().count;
  }
  return words;
}

/// The words that are this one, whatever the case of their letters.
/// Errors:  input_error that lists the words there are, if it is none of them; `option` is the user's word for it.
inline std::vector<Word> find_words(std::span<const Word> words, std::string_view wanted, std::string_view option) {
  const auto lower = [](std::string_view text) {
    std::string small(text);
    for (char& c : small) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c + ('a' - 'A')) : c;
    return small;
  };
  std::vector<Word> found;
  std::string all;
  for (const Word& word : words) {
    if (lower(word.text) == lower(wanted)) found.push_back(word);
    all += mllama::concat(all.empty() ? "" : ", ", word.text);
  }
  mllama::check(!found.empty(), [&] {
    return mllama::Fault{
        .field = std::string(option),
        .expected = all.empty() ? "no word, since the answer has none" : mllama::concat("a word of the answer: ", all),
        .found = std::string(wanted)};
  });
  return found;
}

}  // namespace support
