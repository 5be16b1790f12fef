// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

/// What a prompt is made of besides words.

namespace mllama {

inline constexpr std::string_view begin_of_text = "<|begin_of_text|>";
inline constexpr std::string_view start_header = "<|start_header_id|>";
inline constexpr std::string_view end_header = "<|end_header_id|>";
inline constexpr std::string_view end_of_turn = "<|eot_id|>";
inline constexpr std::string_view image_token = "<|image|>";

/// How many pictures `prompt` speaks of: its occurrences of `<|image|>`.
[[nodiscard]] constexpr std::size_t count_images(std::string_view prompt) noexcept {
  std::size_t count = 0;
  for (std::size_t at = prompt.find(image_token); at != prompt.npos; at = prompt.find(image_token, at + image_token.size()))
    ++count;
  return count;
}

/// `prompt` with `<|begin_of_text|>` after the images that it begins with; unchanged if it has one anywhere.
/// Source:  transformers' MllamaProcessor (`build_string_from_input`).
[[nodiscard]] inline std::string with_begin_of_text(std::string_view prompt) {
  if (prompt.find(begin_of_text) != prompt.npos) return std::string(prompt);
  std::size_t images = 0;
  while (prompt.substr(images).starts_with(image_token)) images += image_token.size();
  std::string out(prompt.substr(0, images));
  out += begin_of_text;
  out += prompt.substr(images);
  return out;
}

}  // namespace mllama
