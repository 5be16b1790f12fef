// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <mllama/core/check.hpp>
#include <mllama/core/python_json.hpp>
#include <mllama/core/unicode.hpp>
#include <mllama/text/prompt.hpp>

/// A tokenizer for models that have none: made-up words, in everything else like Llama 3's.

namespace mllama {

/// Where a vocabulary has what.
struct InventedVocabulary {
  int ordinary = 0;     ///< tokens of bytes and words; the special ones follow
  int size = 0;         ///< rows of the model's head
  int image_token = 0;  ///< the id of `<|image|>`: the last special token, or the first after the vocabulary

  /// Special tokens by their place behind the ordinary ones.
  enum class Special : unsigned char { begin = 0, end = 1, padding = 4, message_end = 8, turn_end = 9 };
  [[nodiscard]] int id(Special token) const noexcept { return ordinary + static_cast<int>(token); }
};

namespace detail {

/// In Llama 3's order; reserved ones follow.
inline constexpr std::array<std::string_view, 11> special_tokens{"<|begin_of_text|>",
                                                                 "<|end_of_text|>",
                                                                 "<|reserved_special_token_0|>",
                                                                 "<|reserved_special_token_1|>",
                                                                 "<|finetune_right_pad_id|>",
                                                                 "<|step_id|>",
                                                                 "<|start_header_id|>",
                                                                 "<|end_header_id|>",
                                                                 "<|eom_id|>",
                                                                 "<|eot_id|>",
                                                                 "<|python_tag|>"};

[[nodiscard]] inline std::vector<std::string> special_tokens_of(const InventedVocabulary& vocabulary) {
  std::vector<std::string> names(special_tokens.begin(), special_tokens.end());
  const auto count = static_cast<std::size_t>(vocabulary.image_token - vocabulary.ordinary);
  for (std::size_t reserved = 2; names.size() < count; ++reserved) {
    names.push_back(concat("<|reserved_special_token_", reserved, "|>"));
  }
  names.emplace_back(image_token);
  return names;
}

/// Words and the pairs that make them, in the order of their ids: bytes; then syllables, syllables after a space, and words of two
/// and three syllables, each of the token before its last syllable, and that.
class InventedWords {
 public:
  explicit InventedWords(std::size_t count) : most_(count) {
    // The characters that stand for bytes, in Llama 3's order: visible ones as themselves, then U+0100 and up for the others.
    const auto bytes = [&](std::uint32_t first, std::uint32_t last) {
      for (; first <= last; ++first) append_utf8(words.emplace_back(), first);
    };
    bytes(33, 126);
    bytes(161, 172);
    bytes(174, 255);
    bytes(0x100, 0x143);

    std::vector<std::string> syllables, spaced, two;
    for (const char consonant : std::string_view("tnsrldmkpgbfvhwjzcxqy")) {
      for (const char vowel : std::string_view("aeiou")) syllables.push_back(join({consonant}, {vowel}));
    }
    for (const std::string& syllable : syllables) spaced.push_back(join("Ġ", syllable));
    for (const std::vector<std::string>& first : {spaced, syllables}) {
      for (const std::string& begin : first) {
        for (const std::string& syllable : syllables) two.push_back(join(begin, syllable));
      }
    }
    for (const std::string& begin : two) {
      if (full()) break;
      for (const std::string& syllable : syllables) join(begin, syllable);
    }
  }

  std::vector<std::string> words;
  std::vector<std::pair<std::string, std::string>> merges;  ///< of the words after the 256 bytes

 private:
  [[nodiscard]] bool full() const noexcept { return words.size() >= most_; }
  /// A new word, if there is room.
  std::string join(const std::string& left, const std::string& right) {
    if (full()) return left + right;
    merges.emplace_back(left, right);
    return words.emplace_back(left + right);
  }

  std::size_t most_;
};

[[nodiscard]] inline std::string added_tokens_text(const InventedVocabulary& vocabulary) {
  std::string text;
  int id = vocabulary.ordinary;
  for (const std::string& name : special_tokens_of(vocabulary)) {
    text += concat(text.empty() ? "\n" : ",\n", R"(    {"id": )", id++, R"(, "content": ")", name,
                   R"(", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true})");
  }
  return text;
}

}  // namespace detail

/// The vocabulary for a head with `size` rows: Llama 3's layout, whose padding token is the fifth of the special ones; without a
/// padding token, with 16 special ones in front of `<|image|>`, whose id is `image`. None if there is no room for bytes and special
/// tokens, or if `image` is not at the vocabulary's end.
[[nodiscard]] inline std::optional<InventedVocabulary> invented_vocabulary(int size, int image, std::optional<int> padding) {
  const InventedVocabulary vocabulary{padding ? *padding - static_cast<int>(InventedVocabulary::Special::padding) : image - 16,
                                      size, image};
  const int names = static_cast<int>(detail::special_tokens.size());
  const bool fits = vocabulary.ordinary >= 256 && vocabulary.ordinary <= image - names && (image == size || image == size - 1);
  return fits ? std::optional(vocabulary) : std::nullopt;
}

/// The text of tokenizer.json: byte-level byte pairs with Llama 3's pattern, special tokens and post-processor. The same on every
/// machine. There are at most 2.3 million words; a larger vocabulary has ids without token.
[[nodiscard]] inline std::string invented_tokenizer(const InventedVocabulary& vocabulary) {
  const detail::InventedWords words(static_cast<std::size_t>(vocabulary.ordinary));
  std::string text = "{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n  \"padding\": null,\n  \"added_tokens\": [";
  text += detail::added_tokens_text(vocabulary);
  text += R"(
  ],
  "normalizer": null,
  "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
    {"type": "Split", "pattern": {"Regex": "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"}, "behavior": "Isolated", "invert": false},
    {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}
  ]},
  "post_processor": {"type": "Sequence", "processors": [
    {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false, "use_regex": true},
    {"type": "TemplateProcessing",
     "single": [{"SpecialToken": {"id": "<|begin_of_text|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
     "pair": [{"SpecialToken": {"id": "<|begin_of_text|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
              {"SpecialToken": {"id": "<|begin_of_text|>", "type_id": 1}}, {"Sequence": {"id": "B", "type_id": 1}}],
     "special_tokens": {"<|begin_of_text|>": {"id": "<|begin_of_text|>", "ids": [)";
  text += concat(vocabulary.id(InventedVocabulary::Special::begin), R"(], "tokens": ["<|begin_of_text|>"]}}}
  ]},
  "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
  "model": {
    "type": "BPE",
    "dropout": null,
    "unk_token": null,
    "continuing_subword_prefix": null,
    "end_of_word_suffix": null,
    "fuse_unk": false,
    "byte_fallback": false,
    "ignore_merges": true,
    "vocab": {)");
  for (std::size_t id = 0; id < words.words.size(); ++id) {
    text += id == 0 ? "\n      " : ",\n      ";
    detail::append_python_string(text, words.words[id]);
    text += concat(": ", id);
  }
  text += "\n    },\n    \"merges\": [";
  for (const auto& [left, right] : words.merges) {
    text += concat(&left == &words.merges.front().first ? "\n" : ",\n", "      [\"", left, "\", \"", right, "\"]");
  }
  return text += "\n    ]\n  }\n}\n";
}

/// The text of tokenizer_config.json, by which transformers finds the tokens that have a role.
[[nodiscard]] inline std::string invented_tokenizer_config() {
  return R"({
  "bos_token": "<|begin_of_text|>",
  "clean_up_tokenization_spaces": false,
  "eos_token": "<|eot_id|>",
  "extra_special_tokens": {},
  "model_input_names": [
    "input_ids",
    "attention_mask"
  ],
  "model_max_length": 131072,
  "pad_token": "<|finetune_right_pad_id|>",
  "padding_side": "left",
  "processor_class": "MllamaProcessor",
  "tokenizer_class": "PreTrainedTokenizerFast"
}
)";
}

}  // namespace mllama
