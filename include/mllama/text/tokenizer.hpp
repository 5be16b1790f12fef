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
#include <mllama/io/mapped_file.hpp>
#include <mllama/text/added_tokens.hpp>
#include <mllama/text/bpe.hpp>
#include <mllama/text/json_view.hpp>
#include <mllama/text/split_pattern.hpp>
#include <mllama/text/unicode.hpp>

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
class Tokenizer {
 public:
  using Id = std::int32_t;

  /// Errors:  file_error; format_error that names file and field.
  [[nodiscard]] static Tokenizer from_file(const std::string& path) { return from_json(MappedFile(path).text(), path); }

  /// `name` stands for the file in errors.
  [[nodiscard]] static Tokenizer from_json(std::string_view text, std::string_view name = "tokenizer.json") {
    if (text.size() > largest_file)
      throw format_error(Fault{.file = std::string(name),
                               .field = {},
                               .expected = concat("at most ", largest_file, " bytes"),
                               .found = concat(text.size()),
                               .note = {}});
    Tokenizer tokenizer;
    tokenizer.read(detail::JsonPlace(JsonView::parse(text, name), name, {}));
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
      throw input_error(Fault{.file = {},
                              .field = "text",
                              .expected = concat("at most ", longest_text, " bytes"),
                              .found = concat(text.size()),
                              .note = {}});
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
  static constexpr std::size_t most_template_ids = 64;
  static constexpr std::int64_t most_ids = std::int64_t{1} << 20U;  // Llama 3 has 128 257; a stray id must not become an allocation
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
      throw input_error(Fault{.file = {},
                              .field = "token id",
                              .expected = concat("one of the tokenizer's ", tokens_.size()),
                              .found = concat(id),
                              .note = {}});
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
      throw input_error(Fault{.file = {},
                              .field = "text",
                              .expected = "bytes of the tokenizer's vocabulary",
                              .found = concat("the byte ", static_cast<int>(static_cast<unsigned char>(piece[at]))),
                              .note = {}});
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

  using Place = detail::JsonPlace;
  using Kind = JsonView::Kind;

  void read(const Place& root) {
    root.require_nothing("normalizer");
    const Place model = root.get("model");
    check_model(model);
    const Place merges = model.get("merges");
    read_tokens(model.get("vocab"), merges, root.find("added_tokens"));
    read_merges(merges);
    read_pre_tokenizer(root.get("pre_tokenizer"));
    expect_type(root.get("decoder"), "ByteLevel");
    if (const auto post_processor = root.find("post_processor")) read_post_processor(*post_processor);
  }

  void check_model(const Place& model) {
    if (const Place type = model.get("type"); type.string() != "BPE") type.fail("\"BPE\"");
    for (const std::string_view affix : {"continuing_subword_prefix", "end_of_word_suffix"})
      if (const auto place = model.find(affix); place && !place->string().empty()) place->fail("null (nothing else is supported)");
    if (const auto dropout = model.find("dropout"); dropout && dropout->view().text() != "0.0")
      dropout->fail("null (nothing else is supported)");
    model.require_nothing("unk_token");
    model.require("byte_fallback", false);
    const auto ignore_merges = model.find("ignore_merges");
    ignore_merges_ = ignore_merges && ignore_merges->boolean();
  }

  /// A new token, its bytes copied into the arena.
  Token& enter(std::int64_t id, std::string_view bytes) {
    const auto index = static_cast<std::size_t>(id);
    if (index >= tokens_.size()) tokens_.resize(index + 1);
    const std::size_t begin = arena_.size();
    arena_.insert(arena_.end(), bytes.begin(), bytes.end());
    return tokens_[index] = Token{{arena_.data() + begin, bytes.size()}, true, false};
  }

  void read_tokens(const Place& vocab, const Place& merges, const std::optional<Place>& added) {
    // JSON never spells a string in fewer bytes than it has: the arena does not move while views are made.
    arena_.reserve(vocab.expect(Kind::object, "an object").view().text().size() + (added ? added->view().text().size() : 0));
    std::vector<Id> byte_strings;
    std::string bytes;
    vocab.view().for_each_member([&](JsonView key, JsonView value) {
      const std::string characters = key.string();
      const auto place = [&] { return Place(value, vocab.file(), concat(vocab.path(), '.', characters)); };
      const std::optional<std::int64_t> id = value.integer();
      if (!id || *id < 0 || *id >= most_ids) place().fail(concat("an id from 0 to ", most_ids - 1));
      if (exists(*id)) place().fail("an id that no other token has");
      if (detail::byte_characters.to_bytes(characters, bytes)) {
        enter(*id, bytes);
        byte_strings.push_back(static_cast<Id>(*id));
      } else {
        enter(*id, characters);  // an added token; encoding can never arrive at it
      }
    });

    std::size_t merge_count = 0;
    merges.expect(Kind::array, "an array").view().for_each_element([&](JsonView) { ++merge_count; });
    if (merge_count > most_merges) merges.fail(concat("at most ", most_merges, " merges"));
    merger_ = BytePairMerger(byte_strings.size(), merge_count);
    for (const Id id : byte_strings)
      if (!merger_.add_token(token(id).bytes, id))
        vocab.fail(concat("each token once; the one of id ", id, " cannot be told from another"));
    if (added) read_added_tokens(*added);
  }

  void read_added_tokens(const Place& list) {
    std::vector<AddedTokens::Token> verbatim, normalized;
    std::vector<std::string> contents;
    list.for_each_element([&](const Place& entry) {
      for (const std::string_view flag : {"single_word", "lstrip", "rstrip"}) entry.require(flag, false);
      const Place content_place = entry.get("content");
      std::string content = content_place.string();
      if (content.empty() || content.size() > longest_added_token)
        content_place.fail(concat("1 to ", longest_added_token, " bytes"));
      const Place id_place = entry.get("id");
      const std::int64_t id = id_place.integer(most_ids);
      const bool known = exists(id);
      if (known && token(static_cast<Id>(id)).bytes != content) id_place.fail("an id that no other token has");
      if (const auto ordinary = merger_.find(content); ordinary && *ordinary != id)
        id_place.fail(concat(*ordinary, ", as in the vocabulary"));
      const auto special = entry.find("special"), in_second_pass = entry.find("normalized");
      (known ? tokens_[static_cast<std::size_t>(id)] : enter(id, content)).special = special && special->boolean();
      contents.push_back(content);
      (in_second_pass && in_second_pass->boolean() ? normalized : verbatim).push_back({std::move(content), static_cast<Id>(id)});
    });
    std::sort(contents.begin(), contents.end());
    if (const auto twice = std::adjacent_find(contents.begin(), contents.end()); twice != contents.end())
      list.fail(concat('"', *twice, "\" once, not twice"));
    verbatim_ = AddedTokens(std::move(verbatim));
    normalized_ = AddedTokens(std::move(normalized));
  }

  void read_merges(const Place& merges) {
    std::string left, right, both;
    std::int32_t rank = 0;
    merges.view().for_each_element([&](JsonView merge) {
      const auto fail = [&](std::string expected) {
        Place(merge, merges.file(), concat(merges.path(), '[', rank, ']')).fail(std::move(expected));
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

  static void expect_type(const Place& place, std::string_view type) {
    if (const Place found = place.get("type"); found.string() != type)
      found.fail(concat('"', type, "\" (nothing else is supported)"));
  }

  /// The steps of a "Sequence", or the one step that stands for itself.
  static std::vector<Place> steps(const Place& place, std::string_view key) {
    std::vector<Place> list;
    if (place.get("type").string() == "Sequence") {
      place.get(key).for_each_element([&](const Place& step) { list.push_back(step); });
    } else {
      list.push_back(place);
    }
    return list;
  }

  void read_pre_tokenizer(const Place& place) {
    const std::vector<Place> list = steps(place, "pretokenizers");
    if (list.empty() || list.size() > 2) place.fail("Split and ByteLevel, or ByteLevel");
    const Place& byte_level = list.back();
    expect_type(byte_level, "ByteLevel");
    if (const Place prefix = byte_level.get("add_prefix_space"); prefix.boolean()) prefix.fail("false (nothing else is supported)");
    const auto use_regex = byte_level.find("use_regex");
    const bool own_pattern = !use_regex || use_regex->boolean();
    if (list.size() == 1) {
      if (own_pattern) pattern_.emplace(gpt2_pattern, place.file(), byte_level.path());
      return;
    }
    if (own_pattern) byte_level.fail("\"use_regex\": false after a Split");
    const Place& split = list.front();
    expect_type(split, "Split");
    if (const Place behavior = split.get("behavior"); behavior.string() != "Isolated")
      behavior.fail("\"Isolated\" (nothing else is supported)");
    split.require("invert", false);
    const Place regex = split.get("pattern").get("Regex");
    pattern_.emplace(regex.string(), regex.file(), regex.path());
  }

  void read_post_processor(const Place& place) {
    for (const Place& step : steps(place, "processors")) {
      const Place type = step.get("type");
      if (type.string() == "ByteLevel") continue;  // moves offsets, changes no id
      if (type.string() != "TemplateProcessing") type.fail("\"ByteLevel\" or \"TemplateProcessing\" (nothing else is supported)");
      const Place special_tokens = step.get("special_tokens");
      std::vector<Id> before, after;
      bool text_seen = false;
      step.get("single").for_each_element([&](const Place& item) {
        if (const auto sequence = item.find("Sequence")) {
          if (text_seen || sequence->get("id").string() != "A") sequence->fail("the sequence A, once");
          text_seen = true;
          return;
        }
        special_tokens.get(item.get("SpecialToken").get("id").string()).get("ids").for_each_element([&](const Place& id_place) {
          const auto id = static_cast<Id>(id_place.integer(most_ids));
          if (!exists(id)) id_place.fail("the id of a token");
          std::vector<Id>& side = text_seen ? after : before;
          if (side.size() == most_template_ids) step.fail(concat("at most ", most_template_ids, " tokens on a side"));
          side.push_back(id);
        });
      });
      if (!text_seen) step.fail("a place for the sequence A");
      before_.insert(before_.begin(), before.begin(), before.end());
      after_.insert(after_.end(), after.begin(), after.end());
    }
  }

  static constexpr std::string_view gpt2_pattern = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

  std::vector<char> arena_;    // the bytes of all tokens
  std::vector<Token> tokens_;  // by id
  BytePairMerger merger_;
  AddedTokens verbatim_, normalized_;
  std::optional<SplitPattern> pattern_;
  std::vector<Id> before_, after_;  // around a text when special tokens are added
  bool ignore_merges_ = false;
};

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
