// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <mllama/core/check.hpp>
#include <mllama/core/json.hpp>
#include <mllama/core/unicode.hpp>
#include <mllama/io/mapped_file.hpp>
#include <mllama/text/added_tokens.hpp>
#include <mllama/text/bpe.hpp>
#include <mllama/text/split_pattern.hpp>

namespace mllama {

namespace detail {

/// The printable characters that byte-level tokenizer files write for bytes (GPT-2's `bytes_to_unicode`): a byte that is a visible
/// Latin-1 character is itself, the 68 others are U+0100 and up.
struct ByteCharacters {
  static constexpr std::uint32_t first_stand_in = 0x100;
  std::array<std::int16_t, 0x144> byte_of{};  // by code point; -1 for code points that stand for no byte

  constexpr ByteCharacters() {
    byte_of.fill(-1);
    std::uint32_t next = first_stand_in;
    for (std::uint32_t byte = 0; byte < 256; ++byte) {
      const bool visible = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
      byte_of[visible ? byte : next++] = static_cast<std::int16_t>(byte);
    }
  }

  /// The bytes that `text` stands for; false, with `out` undefined, if a character of it stands for none.
  constexpr bool to_bytes(std::string_view text, std::string& out) const {
    out.clear();
    for (std::size_t at = 0; at < text.size();) {
      const CodePoint next = code_point_at(text, at);
      if (next.value >= byte_of.size() || byte_of[next.value] < 0) return false;
      out += static_cast<char>(byte_of[next.value]);
      at += next.length;
    }
    return true;
  }
};

inline constexpr ByteCharacters byte_characters{};

}  // namespace detail

struct EncodeOptions {
  bool add_special_tokens = false;  ///< what the file's post-processor puts around a text: `<|begin_of_text|>` for Llama 3
};

struct DecodeOptions {
  bool skip_special_tokens = false;
  bool clean_up_spaces = false;  ///< transformers' `clean_up_tokenization_spaces`: " ." becomes ".", " n't" becomes "n't", …
};

/// A byte-level byte-pair tokenizer as Hugging Face's tokenizer.json describes it; Llama 3's among others. Constant after loading:
/// threads may share one.
///
/// Text is treated in this order: what is not UTF-8 becomes U+FFFD; added tokens are cut out (those not "normalized" first);
/// the file's pattern splits what is between them; each piece is a token as a whole (`ignore_merges`) or is merged from bytes.
/// A token is its bytes here: " hello", where the file has "Ġhello".
/// Accepted:  model BPE without dropout, affixes, unknown token and byte fallback; pre-tokenizer ByteLevel, or a sequence of a
///            Split by one regular expression (isolated) and ByteLevel; no normalizer; decoder ByteLevel; post-processors ByteLevel
///            and TemplateProcessing; added tokens that do not strip and need no word boundary. Truncation and padding settings
///            are not read, as in transformers. Anything else is an error that names the field.
/// Deviation: an added token decodes to its content; tokenizers maps it as bytes, which garbles one that is not ASCII.
///            Characters younger than PCRE2's Unicode version (14 in Debian 12) may be split as symbols where a newer engine knows
///            letters or digits.
/// Source:  tokenizers (`Tokenizer`, `BPE`, `ByteLevel`, `AddedVocabulary`).
template <class = void>  // a template, so that bodies are compiled where they are used and not with every include
class BasicTokenizer {
 public:
  using Id = std::int32_t;

  /// Errors:  file_error; format_error that names file and field.
  [[nodiscard]] static BasicTokenizer from_file(const std::string& path) { return from_json(MappedFile(path).text(), path); }

  /// `name` stands for the file in errors.
  [[nodiscard]] static BasicTokenizer from_json(std::string_view text, std::string_view name = "tokenizer.json") {
    if (text.size() > largest_file)
      throw format_error(
          Fault{.file = std::string(name), .expected = concat("at most ", largest_file, " bytes"), .found = concat(text.size())});
    BasicTokenizer tokenizer;
    tokenizer.read(parse_json(text, std::string(name)));
    return tokenizer;
  }

  /// One more than the largest id.
  [[nodiscard]] std::size_t size() const noexcept { return tokens_.size(); }

  /// The id of an added token, or of the ordinary token with these bytes.
  [[nodiscard]] std::optional<Id> token_id(std::string_view token) const noexcept {
    for (const AddedTokens* added : {&verbatim_, &normalized_})
      if (const auto id = added->find(token)) return id;
    return merger_.find(token);
  }

  /// The bytes of a token; they need not be UTF-8.
  /// Errors:  input_error if there is no such id.
  [[nodiscard]] std::string_view id_to_piece(Id id) const { return token(id).bytes; }

  /// Errors:  input_error if there is no such id.
  [[nodiscard]] bool is_special(Id id) const { return token(id).special; }

  [[nodiscard]] std::vector<Id> encode(std::string_view text, EncodeOptions options = {}) const {
    std::vector<Id> ids;
    encode(text, ids, options);
    return ids;
  }

  /// Appends to `ids`.
  /// Errors:  input_error if `text` has 2 GiB or more, or a byte that is no token; or if the file's pattern gives up on it.
  void encode(std::string_view text, std::vector<Id>& ids, EncodeOptions options = {}) const {
    if (text.size() > longest_text)
      throw input_error(
          Fault{.field = "text", .expected = concat("at most ", longest_text, " bytes"), .found = concat(text.size())});
    std::string repaired;
    if (valid_utf8_length(text) != text.size()) text = repaired = to_valid_utf8(text);

    if (options.add_special_tokens) ids.insert(ids.end(), before_.begin(), before_.end());
    BytePairMerger::Scratch scratch;
    std::optional<SplitPattern::Matcher> matcher;
    if (pattern_) matcher.emplace(*pattern_);
    const auto found = [&](Id id) { ids.push_back(id); };
    const auto piece = [&](std::string_view bytes) { encode_piece(bytes, scratch, ids); };
    verbatim_.split(text, found, [&](std::string_view rest) {
      normalized_.split(rest, found, [&](std::string_view ordinary) {
        if (matcher) {
          matcher->for_each_piece(ordinary, piece);
        } else {
          piece(ordinary);
        }
      });
    });
    if (options.add_special_tokens) ids.insert(ids.end(), after_.begin(), after_.end());
  }

  /// The text of `ids`. Bytes that do not form UTF-8 become U+FFFD, one for each maximal subpart.
  /// Errors:  input_error if an id does not exist.
  [[nodiscard]] std::string decode(std::span<const Id> ids, DecodeOptions options = {}) const {
    std::string bytes;
    for (const Id id : ids) {
      const Token& t = token(id);
      if (!(options.skip_special_tokens && t.special)) bytes += t.bytes;
    }
    std::string text = valid_utf8_length(bytes) == bytes.size() ? std::move(bytes) : to_valid_utf8(bytes);
    return options.clean_up_spaces ? clean_up(std::move(text)) : text;
  }

 private:
  static constexpr std::size_t largest_file = std::size_t{64} << 20U;  // Llama 3 has 9 to 17 MB
  static constexpr std::size_t longest_text = INT32_MAX;
  static constexpr std::size_t longest_added_token = 256;  // finding one looks this far ahead at every byte
  static constexpr std::size_t most_steps = 64;            // of each part of pre-tokenizers and post-processors
  static constexpr Id most_ids = Id{1} << 20U;             // Llama 3 has 128 257; a stray id must not become an allocation
  static constexpr std::size_t most_merges = std::size_t{1} << 22U;  // Llama 3 has 280 147

  struct Token {
    std::string_view bytes;  // in arena_
    bool exists = false, special = false;
  };

  [[nodiscard]] bool exists(std::int64_t id) const noexcept {
    return id >= 0 && static_cast<std::size_t>(id) < tokens_.size() && tokens_[static_cast<std::size_t>(id)].exists;
  }

  [[nodiscard]] const Token& token(Id id) const {
    if (!exists(id))
      throw input_error(
          Fault{.field = "token id", .expected = concat("one of the tokenizer's ", tokens_.size()), .found = concat(id)});
    return tokens_[static_cast<std::size_t>(id)];
  }

  void encode_piece(std::string_view piece, BytePairMerger::Scratch& scratch, std::vector<Id>& ids) const {
    if (ignore_merges_) {
      if (const auto id = merger_.find(piece)) {
        ids.push_back(*id);
        return;
      }
    }
    if (const std::size_t at = merger_.encode(piece, scratch, ids); at != piece.size())
      throw input_error(Fault{.field = "text",
                              .expected = "bytes of the tokenizer's vocabulary",
                              .found = concat("the byte ", static_cast<int>(static_cast<unsigned char>(piece[at])))});
  }

  static std::string clean_up(std::string text) {
    static constexpr std::string_view pairs[][2] = {{" .", "."},     {" ?", "?"},     {" !", "!"},   {" ,", ","},
                                                    {" ' ", "'"},    {" n't", "n't"}, {" 'm", "'m"}, {" 's", "'s"},
                                                    {" 've", "'ve"}, {" 're", "'re"}};
    for (const auto& [from, to] : pairs) {
      std::string replaced;
      std::size_t done = 0;
      for (std::size_t at = text.find(from); at != text.npos; at = text.find(from, done)) {
        replaced.append(text, done, at - done);
        replaced += to;
        done = at + from.size();
      }
      if (done != 0) text = replaced.append(text, done);
    }
    return text;
  }

  // Loading ---------------------------------------------------------------------------------------------------------------------

  using Kind = JsonView::Kind;

  void read(const JsonField& root) {
    require_absent(root["normalizer"]);
    const JsonField model = root["model"];
    check_model(model);
    const JsonField merges = model["merges"];
    read_tokens(model["vocab"], merges, root["added_tokens"]);
    read_merges(merges);
    read_pre_tokenizer(root["pre_tokenizer"]);
    expect_type(root["decoder"], "ByteLevel");
    if (const JsonField post_processor = root["post_processor"]; post_processor.present()) read_post_processor(post_processor);
  }

  /// A setting that must be what this library can do: missing, or equal to `only`.
  static void require(const JsonField& flag, bool only) {
    if (flag.as<bool>(only) != only) flag.fail(concat(only, " (nothing else is supported)"));
  }
  static void require_absent(const JsonField& field) {
    if (field.present()) field.fail("null (nothing else is supported)");
  }

  void check_model(const JsonField& model) {
    if (const JsonField type = model["type"]; type.as<std::string>() != "BPE") type.fail("\"BPE\"");
    for (const std::string_view affix : {"continuing_subword_prefix", "end_of_word_suffix"}) {
      if (const JsonField field = model[affix]; !field.as<std::string>({}).empty()) require_absent(field);
    }
    if (const JsonField dropout = model["dropout"]; dropout.as<double>(0) != 0) require_absent(dropout);
    require_absent(model["unk_token"]);
    require(model["byte_fallback"], false);
    ignore_merges_ = model["ignore_merges"].as<bool>(false);
  }

  /// A new token, its bytes copied into the arena.
  Token& enter(std::int64_t id, std::string_view bytes) {
    const auto index = static_cast<std::size_t>(id);
    if (index >= tokens_.size()) tokens_.resize(index + 1);
    const std::size_t begin = arena_.size();
    arena_.insert(arena_.end(), bytes.begin(), bytes.end());
    return tokens_[index] = Token{{arena_.data() + begin, bytes.size()}, true, false};
  }

  void read_tokens(const JsonField& vocab, const JsonField& merges, const JsonField& added) {
    // JSON never spells a string in fewer bytes than it has: the arena does not move while views are made.
    const JsonView entries = vocab.view(Kind::object, "an object");
    arena_.reserve(entries.text().size() + added.view().text().size());
    std::vector<Id> byte_strings;
    std::string bytes;
    entries.for_each_member([&](JsonView key, JsonView value) {
      const std::string characters = key.string();
      const std::optional<Id> id = value.integer<Id>();
      if (!id || *id < 0 || *id >= most_ids) vocab.member(characters, value).fail(concat("an id from 0 to ", most_ids - 1));
      if (exists(*id)) vocab.member(characters, value).fail("an id that no other token has");
      if (detail::byte_characters.to_bytes(characters, bytes)) {
        enter(*id, bytes);
        byte_strings.push_back(*id);
      } else {
        enter(*id, characters);  // an added token; encoding can never arrive at it
      }
    });

    std::size_t merge_count = 0;
    merges.view(Kind::array, "an array").for_each_element([&](JsonView) { ++merge_count; });
    if (merge_count > most_merges) merges.fail(concat("at most ", most_merges, " merges"));
    merger_ = BytePairMerger(byte_strings.size(), merge_count);
    for (const Id id : byte_strings)
      if (!merger_.add_token(token(id).bytes, id))
        vocab.fail(concat("each token once; the one of id ", id, " cannot be told from another"));
    if (added.present()) read_added_tokens(added);
  }

  void read_added_tokens(const JsonField& list) {
    std::vector<AddedTokens::Token> verbatim, normalized;
    std::vector<std::string> contents;
    list.view(Kind::array, "an array").for_each_element([&](JsonView value) {
      const JsonField entry = list.element(contents.size(), value);
      for (const std::string_view flag : {"single_word", "lstrip", "rstrip"}) require(entry[flag], false);
      const JsonField content_field = entry["content"];
      std::string content = content_field.as<std::string>();
      if (content.empty() || content.size() > longest_added_token)
        content_field.fail(concat("1 to ", longest_added_token, " bytes"));
      const JsonField id_field = entry["id"];
      const auto id = id_field.integer<Id>(0, most_ids - 1);
      const bool known = exists(id);
      if (known && token(id).bytes != content) id_field.fail("an id that no other token has");
      if (const auto ordinary = merger_.find(content); ordinary && *ordinary != id)
        id_field.fail(concat(*ordinary, ", as in the vocabulary"));
      (known ? tokens_[static_cast<std::size_t>(id)] : enter(id, content)).special = entry["special"].as<bool>(false);
      contents.push_back(content);
      (entry["normalized"].as<bool>(false) ? normalized : verbatim).push_back({std::move(content), id});
    });
    std::sort(contents.begin(), contents.end());
    if (const auto twice = std::adjacent_find(contents.begin(), contents.end()); twice != contents.end())
      list.fail(concat('"', *twice, "\" once, not twice"));
    verbatim_ = AddedTokens(std::move(verbatim));
    normalized_ = AddedTokens(std::move(normalized));
  }

  void read_merges(const JsonField& merges) {
    std::string left, right, both;
    std::int32_t rank = 0;
    merges.view().for_each_element([&](JsonView merge) {
      const auto fail = [&](std::string expected) {
        merges.element(static_cast<std::size_t>(rank), merge).fail(std::move(expected));
      };
      std::string parts[2];
      std::size_t count = 0;
      if (merge.kind() == Kind::string) {
        parts[0] = merge.string();
        if (const std::size_t space = parts[0].find(' '); space != std::string::npos) {
          parts[1] = parts[0].substr(space + 1);
          parts[0].resize(space);
          count = 2;  // a second space stands for no byte
        }
      } else if (merge.kind() == Kind::array) {
        merge.for_each_element([&](JsonView part) {
          if (count < 2 && part.kind() == Kind::string) parts[count] = part.string();
          count += part.kind() == Kind::string ? 1U : 3U;
        });
      }
      if (count != 2) fail("two tokens: \"a b\" or [\"a\", \"b\"]");
      if (!detail::byte_characters.to_bytes(parts[0], left) || !detail::byte_characters.to_bytes(parts[1], right))
        fail("tokens of byte characters");
      const auto left_id = merger_.find(left), right_id = merger_.find(right),
                 merged_id = merger_.find(both.assign(left).append(right));
      if (!left_id || !right_id || !merged_id) fail("two tokens of the vocabulary that make a third");
      if (!merger_.add_merge(*left_id, *right_id, *merged_id, rank)) fail("merges that can be told from each other");
      ++rank;
    });
  }

  static void expect_type(const JsonField& step, std::string_view type) {
    if (const JsonField found = step["type"]; found.as<std::string>() != type)
      found.fail(concat('"', type, "\" (nothing else is supported)"));
  }

  /// The steps of a "Sequence", or the one step that stands for itself.
  static std::vector<JsonField> steps(const JsonField& field, std::string_view key) {
    if (field["type"].as<std::string>() == "Sequence") return field[key].elements(most_steps);
    return {field};
  }

  void read_pre_tokenizer(const JsonField& field) {
    const std::vector<JsonField> list = steps(field, "pretokenizers");
    if (list.empty() || list.size() > 2) field.fail("Split and ByteLevel, or ByteLevel");
    const JsonField& byte_level = list.back();
    expect_type(byte_level, "ByteLevel");
    if (const JsonField prefix = byte_level["add_prefix_space"]; prefix.as<bool>())
      prefix.fail("false (nothing else is supported)");
    const bool own_pattern = byte_level["use_regex"].as<bool>(true);
    if (list.size() == 1) {
      if (own_pattern) pattern_.emplace(gpt2_pattern, field.file(), byte_level.name());
      return;
    }
    if (own_pattern) byte_level.fail("\"use_regex\": false after a Split");
    const JsonField& split = list.front();
    expect_type(split, "Split");
    if (const JsonField behavior = split["behavior"]; behavior.as<std::string>() != "Isolated")
      behavior.fail("\"Isolated\" (nothing else is supported)");
    require(split["invert"], false);
    const JsonField regex = split["pattern"]["Regex"];
    pattern_.emplace(regex.as<std::string>(), regex.file(), regex.name());
  }

  void read_post_processor(const JsonField& field) {
    for (const JsonField& step : steps(field, "processors")) {
      const JsonField type_field = step["type"];
      const auto type = type_field.as<std::string>();
      if (type == "ByteLevel") continue;  // moves offsets, changes no id
      if (type != "TemplateProcessing") type_field.fail("\"ByteLevel\" or \"TemplateProcessing\" (nothing else is supported)");
      const JsonField special_tokens = step["special_tokens"];
      std::vector<Id> before, after;
      bool text_seen = false;
      for (const JsonField& item : step["single"].elements(most_steps)) {
        if (const JsonField sequence = item["Sequence"]; sequence.present()) {
          if (text_seen || sequence["id"].as<std::string>() != "A") sequence.fail("the sequence A, once");
          text_seen = true;
          continue;
        }
        for (const JsonField& id_field : special_tokens[item["SpecialToken"]["id"].as<std::string>()]["ids"].elements(most_steps)) {
          const auto id = id_field.integer<Id>(0, most_ids - 1);
          if (!exists(id)) id_field.fail("the id of a token");
          (text_seen ? after : before).push_back(id);
        }
      }
      if (!text_seen) step.fail("a place for the sequence A");
      before_.insert(before_.begin(), before.begin(), before.end());
      after_.insert(after_.end(), after.begin(), after.end());
    }
  }

  std::vector<char> arena_;    // the bytes of all tokens
  std::vector<Token> tokens_;  // by id
  BytePairMerger merger_;
  AddedTokens verbatim_, normalized_;
  std::optional<SplitPattern> pattern_;
  std::vector<Id> before_, after_;  // around a text when special tokens are added
  bool ignore_merges_ = false;
};
using Tokenizer = BasicTokenizer<>;
#if defined(MLLAMA_ELSEWHERE)
extern template class BasicTokenizer<>;
#endif

/// Turns ids into text as they are generated. Bytes at the end that may yet become a code point are held back, so that what is
/// returned is always valid UTF-8; all of it together is what Tokenizer::decode gives. Refers to the tokenizer.
class TextStream {
 public:
  explicit TextStream(const Tokenizer& tokenizer, bool skip_special_tokens = true)
      : tokenizer_(&tokenizer), skip_(skip_special_tokens) {}

  /// The text that `id` completes, maybe none; valid until the next call.
  /// Errors:  input_error if there is no such id.
  std::string_view push(Tokenizer::Id id) {
    const std::string_view bytes = tokenizer_->id_to_piece(id);
    text_.clear();
    if (!(skip_ && tokenizer_->is_special(id))) {
      held_ += bytes;
      std::size_t at = 0;
      while (at < held_.size()) {
        const CodePoint next = code_point_at(held_, at);
        if (next.kind == CodePoint::Kind::cut) break;
        append_utf8(text_, next.value);
        at += next.length;
      }
      held_.erase(0, at);
    }
    return text_;
  }

  /// What was held back, as U+FFFD if anything; the stream may then be used for another text.
  std::string_view finish() {
    text_ = held_.empty() ? std::string_view{} : replacement_character;
    held_.clear();
    return text_;
  }

 private:
  const Tokenizer* tokenizer_;
  bool skip_;
  std::string held_;  // less than one code point
  std::string text_;
};

}  // namespace mllama
