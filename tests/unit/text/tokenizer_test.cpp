// SPDX-License-Identifier: MIT
#include <mllama/text/tokenizer.hpp>

#include <doctest/doctest.h>

#include <fstream>
#include <random>
#include <string>
#include <utility>
#include <vector>

using namespace mllama;

namespace {

using Ids = std::vector<std::int32_t>;

const std::string golden = std::string(MLLAMA_TEST_DATA) + "/golden/tokenizer/";

template <class Row>
int for_each_line(const std::string& path, Row&& row) {
  std::ifstream file(path);
  int count = 0;
  for (std::string line; std::getline(file, line); ++count) {
    CAPTURE(line);
    row(parse_json(line, path));
  }
  return count;
}

Ids ids_of(const JsonField& list) {
  Ids ids;
  for (const JsonField& id : list.elements()) ids.push_back(id.as<std::int32_t>());
  return ids;
}

std::string streamed(const Tokenizer& tokenizer, const Ids& ids, bool skip) {
  TextStream stream(tokenizer, skip);
  std::string text;
  for (const auto id : ids) {
    const std::string_view part = stream.push(id);
    CHECK(valid_utf8_length(part) == part.size());
    text += part;
  }
  text += stream.finish();
  CHECK(stream.finish() == "");
  return text;
}

/// A byte as tokenizer.json spells it.
std::string character(int byte) {
  for (std::uint32_t c = 0; c < detail::byte_characters.byte_of.size(); ++c)
    if (detail::byte_characters.byte_of[c] == byte) {
      std::string out;
      if (c == '"' || c == '\\') out = "\\";
      append_utf8(out, c);
      return out;
    }
  return {};
}

/// The parts of a small file, each of which a test may replace.
struct File {
  std::string more_vocab = R"(,"ab":256,"bc":257,"abc":258,"Ġa":259)";
  std::string merges = R"(["b c", ["a", "b"], "a bc", "Ġ a"])";
  std::string model = R"("ignore_merges": false)";
  std::string added = R"([{"id": 260, "content": "<|x|>", "special": true}, {"id": 261, "content": "<|x|>y"},
                          {"id": 262, "content": "c<|", "normalized": true}])";
  std::string pre_tokenizer = R"({"type": "ByteLevel", "add_prefix_space": false, "use_regex": false})";
  std::string rest = R"("decoder": {"type": "ByteLevel"})";

  [[nodiscard]] std::string text() const {
    std::string vocab;
    for (int byte = 0; byte < 256; ++byte) vocab += concat(byte == 0 ? "" : ",", '"', character(byte), "\":", byte);
    return concat(R"({"version": "1.0", "added_tokens": )", added, R"(, "pre_tokenizer": )", pre_tokenizer,
                  R"(, "model": {"type": "BPE", )", model, R"(, "vocab": {)", vocab, more_vocab, R"(}, "merges": )", merges, "}, ",
                  rest, "}");
  }
  [[nodiscard]] Tokenizer load() const { return Tokenizer::from_json(text()); }
  /// What the error says after "tokenizer.json: ".
  [[nodiscard]] std::string refusal() const {
    try {
      static_cast<void>(load());
    } catch (const format_error& e) {
      return std::string(e.what()).substr(std::string_view("tokenizer.json: ").size());
    }
    return "loaded";
  }
};

}  // namespace

TEST_CASE("ids and texts are those of the tokenizers library") {
  for (const std::string name : {"large", "small"}) {
    CAPTURE(name);
    const Tokenizer tokenizer = Tokenizer::from_file(golden + name + "/tokenizer.json");
    const int texts = for_each_line(golden + name + "/encode.jsonl", [&](const JsonField& row) {
      const std::string text = row["text"].as<std::string>();
      Ids ids = ids_of(row["ids"]);
      CHECK(tokenizer.encode(text) == ids);
      const Ids before = ids_of(row["before"]);
      ids.insert(ids.begin(), before.begin(), before.end());
      CHECK(tokenizer.encode(text, {.add_special_tokens = true}) == ids);
      for (const bool skip : {false, true}) {
        const auto expected = row[skip ? "skipped" : "decoded"].as<std::string>(text);
        CHECK(tokenizer.decode(ids, {.skip_special_tokens = skip}) == expected);
        CHECK(streamed(tokenizer, ids, skip) == expected);
      }
    });
    CHECK(texts > (name == "large" ? 500 : 100));
    const int id_lists = for_each_line(golden + name + "/decode.jsonl", [&](const JsonField& row) {
      const Ids ids = ids_of(row["ids"]);
      for (const bool skip : {false, true}) {
        const auto expected = row[skip ? "skipped" : "decoded"].as<std::string>();
        CHECK(tokenizer.decode(ids, {.skip_special_tokens = skip}) == expected);
        CHECK(streamed(tokenizer, ids, skip) == expected);
      }
    });
    CHECK(id_lists > 100);
  }
}

TEST_CASE("names, ids and special tokens") {
  const Tokenizer tokenizer = Tokenizer::from_file(golden + "large/tokenizer.json");
  const auto image = tokenizer.token_id("<|image|>");
  REQUIRE(image);
  CHECK(*image == static_cast<int>(tokenizer.size()) - 1);
  CHECK(tokenizer.id_to_piece(*image) == "<|image|>");
  CHECK(tokenizer.is_special(*image));
  const auto word = tokenizer.token_id(" triangle");
  REQUIRE(word);
  CHECK(tokenizer.id_to_piece(*word) == " triangle");
  CHECK_FALSE(tokenizer.is_special(*word));
  CHECK_FALSE(tokenizer.token_id("no such token"));
  for (const std::int32_t id : {-1, static_cast<std::int32_t>(tokenizer.size()), INT32_MAX, INT32_MIN}) {
    CHECK_THROWS_AS(static_cast<void>(tokenizer.id_to_piece(id)), input_error);
    CHECK_THROWS_AS(static_cast<void>(tokenizer.is_special(id)), input_error);
    CHECK_THROWS_AS(static_cast<void>(tokenizer.decode(Ids{0, id})), input_error);
    CHECK_THROWS_AS(TextStream(tokenizer).push(id), input_error);
  }
}

TEST_CASE("every text survives; what is not UTF-8 becomes U+FFFD") {
  const std::uint32_t seed = 515;
  INFO("seed ", seed);
  std::mt19937 random(seed);
  const Tokenizer tokenizer = Tokenizer::from_file(golden + "large/tokenizer.json");
  for (int round = 0; round < 400; ++round) {
    std::string text;
    for (auto n = random() % 30; n > 0; --n) {
      if (round % 4 == 3) {
        text += static_cast<char>(random());
      } else {
        std::uint32_t c = static_cast<std::uint32_t>(random()) % (round % 4 == 0 ? 0x80U : round % 4 == 1 ? 0x3000U : 0x110000U);
        if (c >= 0xD800 && c < 0xE000) c = ' ';
        append_utf8(text, c);
      }
    }
    const Ids ids = tokenizer.encode(text);
    CHECK(tokenizer.decode(ids) == to_valid_utf8(text));
    CHECK(streamed(tokenizer, ids, false) == to_valid_utf8(text));
    Ids appended{5};
    tokenizer.encode(text, appended);
    CHECK(appended.size() == ids.size() + 1);
  }
}

TEST_CASE("a stream gives each code point with its last byte") {
  const Tokenizer tokenizer = File().load();
  TextStream stream(tokenizer);
  const auto push = [&](int byte) { return std::string(stream.push(byte)); };
  CHECK(push(0xF0) == "");
  CHECK(push(0x9F) == "");
  CHECK(stream.push(260) == "");  // special: skipped, the bytes wait
  CHECK(push(0x98) == "");
  CHECK(push(0x80) == "\U0001F600");
  CHECK(push(0xE2) == "");
  CHECK(push('a') == std::string(replacement_character) + "a");
  CHECK(push(0xFF) == replacement_character);
  CHECK(push(0xE2) == "");
  CHECK(push(0x82) == "");
  CHECK(stream.finish() == replacement_character);
  CHECK(push('b') == "b");
  TextStream all(tokenizer, false);
  CHECK(all.push(260) == "<|x|>");

  // Any bytes, in tokens cut anywhere: as the whole at once.
  for (const std::string text :
       {"a\xF0\x9F\x98\x80z", "\xF0\x9F\xF0\x9F\x98", "\xE2\x82\xAC\xC3\xA9\xED\xA0\x80", "\x80\xC2\xC2\x80"}) {
    Ids ids;
    for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
    CHECK(streamed(tokenizer, ids, true) == to_valid_utf8(text));
    CHECK(tokenizer.decode(ids) == to_valid_utf8(text));
  }
}

TEST_CASE("merges, added tokens, clean-up") {
  File file;
  const Tokenizer merging = file.load();
  CHECK(merging.size() == 263);
  CHECK(merging.encode("abc") == Ids{258});  // b c first, then a bc
  CHECK(merging.encode("ab a") == Ids{256, 259});
  CHECK(merging.encode("<|x|>y<|x|>") == Ids{261, 260});
  CHECK(merging.encode("abc<|x|>") == Ids{258, 260});  // "normalized" ones are sought after the others
  CHECK(merging.encode("abc<|") == Ids{256, 262});
  CHECK(merging.is_special(260));
  CHECK_FALSE(merging.is_special(261));
  CHECK(merging.decode(Ids{261, 260}, {.skip_special_tokens = true}) == "<|x|>y");

  file.merges = "[]";
  CHECK(file.load().encode("abc") == Ids{'a', 'b', 'c'});
  file.model = R"("ignore_merges": true, "dropout": null, "unk_token": null, "byte_fallback": false, "end_of_word_suffix": "")";
  CHECK(file.load().encode("abc") == Ids{258});
  CHECK(file.load().encode("abcabc") == Ids{'a', 'b', 'c', 'a', 'b', 'c'});

  const Ids ids = merging.encode("Hi , you 've said : \" no . \" is n't it ? I 'm sure ! 's ' re");
  CHECK(merging.decode(ids, {.clean_up_spaces = true}) == "Hi, you've said : \" no. \" isn't it? I'm sure!'s're");
}

TEST_CASE("pre-tokenizers and post-processors") {
  File file;
  file.more_vocab += R"(,"Ġb":300,"bb":301)";
  file.merges = R"(["b b", "Ġ b"])";
  file.pre_tokenizer = R"({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true})";
  CHECK(file.load().encode("bb b") == Ids{301, 300});
  file.pre_tokenizer =
      R"({"type": "Sequence", "pretokenizers": [
           {"type": "Split", "pattern": {"Regex": "b"}, "behavior": "Isolated", "invert": false}, {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false}]})";
  CHECK(file.load().encode("bb b") == Ids{'b', 'b', ' ', 'b'});
  const std::string decoder = file.rest;
  file.rest = decoder + R"(, "post_processor": {"type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "S", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "E"}}],
    "pair": [], "special_tokens": {"S": {"id": "S", "ids": [260, 261], "tokens": ["x", "y"]}, "E": {"ids": [262]}}})";
  CHECK(file.load().encode("b", {.add_special_tokens = true}) == Ids{260, 261, 'b', 262});
  CHECK(file.load().encode("b") == Ids{'b'});
  file.rest = decoder + R"(, "post_processor": {"type": "ByteLevel", "trim_offsets": false})";
  CHECK(file.load().encode("b", {.add_special_tokens = true}) == Ids{'b'});
}

TEST_CASE("what is not supported or not right is refused by name") {
  const File good;
  CHECK(good.refusal() == "loaded");
  File file = good;
  const auto says = [&](std::string_view expected) {
    CHECK(file.refusal() == expected);
    file = good;
  };
  file.more_vocab = R"(,"ab":256,"bc":256)";
  says("model.vocab.bc: expected an id that no other token has, found 256");
  file.more_vocab = R"(,"ab":256,"ab":257)";
  CHECK(file.refusal().ends_with("expected every key once in the object that ends here, found \"ab\" twice"));
  file = good;
  for (const char* id : {"-1", "1048576", "1.5", "\"1\"", "null", "99999999999999999999", "[]"}) {
    file.more_vocab = concat(R"(,"ab":)", id);
    says(concat("model.vocab.ab: expected an id from 0 to 1048575, found ", id));
  }
  file.merges = R"(["b c", "a"])";
  says(R"(model.merges[1]: expected two tokens: "a b" or ["a", "b"], found "a")");
  for (const char* merge : {"3", "[]", R"(["a"])", R"(["a","b","c"])", R"(["a",1])", R"([1,"a","b"])", "{}"}) {
    file.merges = concat('[', merge, ']');
    says(concat(R"(model.merges[0]: expected two tokens: "a b" or ["a", "b"], found )", merge));
  }
  file.merges = R"(["a c"])";
  says(R"(model.merges[0]: expected two tokens of the vocabulary that make a third, found "a c")");
  file.merges = R"(["a b c"])";
  says(R"(model.merges[0]: expected tokens of byte characters, found "a b c")");
  file.merges = "{}";
  says("model.merges: expected an array, found {}");
  file.model = R"("unk_token": "<unk>")";
  says(R"(model.unk_token: expected null (nothing else is supported), found "<unk>")");
  file.model = R"("dropout": 0.1)";
  says("model.dropout: expected null (nothing else is supported), found 0.1");
  file.model = R"("byte_fallback": true)";
  says("model.byte_fallback: expected false (nothing else is supported), found true");
  file.model = R"("ignore_merges": 1)";
  says("model.ignore_merges: expected true or false, found 1");
  file.model = R"("ignore_merges": true, "ignore_merges": true)";
  CHECK(file.refusal().ends_with("expected every key once in the object that ends here, found \"ignore_merges\" twice"));
  file = good;
  file.rest += R"(, "normalizer": {"type": "NFC"})";
  says(R"(normalizer: expected null (nothing else is supported), found {"type": "NFC"})");
  file.rest = R"("decoder": {"type": "WordPiece"})";
  says(R"(decoder.type: expected "ByteLevel" (nothing else is supported), found "WordPiece")");
  file.pre_tokenizer = R"({"type": "ByteLevel", "add_prefix_space": true, "use_regex": false})";
  says("pre_tokenizer.add_prefix_space: expected false (nothing else is supported), found true");
  file.pre_tokenizer = R"({"type": "Split", "pattern": {"Regex": "b"}, "behavior": "Isolated", "invert": false})";
  says(R"(pre_tokenizer.type: expected "ByteLevel" (nothing else is supported), found "Split")");
  file.pre_tokenizer = "null";
  CHECK(file.refusal() == "pre_tokenizer.type: expected a string, found nothing");
  file.pre_tokenizer =
      R"({"type": "Sequence", "pretokenizers": [{"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated"},
                       {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false}]})";
  CHECK(file.refusal().starts_with("pre_tokenizer.pretokenizers[0].pattern.Regex: missing closing parenthesis"));
  file = good;
  for (const char* flag : {"lstrip", "rstrip", "single_word"}) {
    file.added = concat(R"([{"id": 260, "content": "x", ")", flag, R"(": true}])");
    says(concat("added_tokens[0].", flag, ": expected false (nothing else is supported), found true"));
  }
  file.added = R"([{"id": 260, "content": ""}])";
  says(R"(added_tokens[0].content: expected 1 to 256 bytes, found "")");
  file.added = R"([{"id": 5000000, "content": "x"}])";
  says("added_tokens[0].id: expected an integer from 0 to 1048575, found 5000000");
  file.added = R"([{"id": 97, "content": "x"}])";
  says("added_tokens[0].id: expected an id that no other token has, found 97");
  file.added = R"([{"id": 300, "content": "ab"}])";
  says("added_tokens[0].id: expected 256, as in the vocabulary, found 300");
  file.added = R"([{"id": 300, "content": "xy"}, {"id": 301, "content": "xy"}])";
  CHECK(file.refusal().starts_with(R"(added_tokens: expected "xy" once, not twice)"));
  file = good;
  file.rest +=
      R"(, "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "S"}}, {"Sequence": {"id": "A"}}],
                   "special_tokens": {"S": {"ids": [999]}}})";
  says("post_processor.special_tokens.S.ids[0]: expected the id of a token, found 999");
  file.rest += R"(, "post_processor": {"type": "RobertaProcessing"})";
  says(
      R"(post_processor.type: expected "ByteLevel" or "TemplateProcessing" (nothing else is supported), found "RobertaProcessing")");
}

TEST_CASE("a tokenizer can be moved") {
  Tokenizer first = File().load();
  const Ids ids = first.encode("abc <|x|>");
  Tokenizer second = std::move(first);
  CHECK(second.encode("abc <|x|>") == ids);
  Tokenizer third = Tokenizer::from_file(golden + "small/tokenizer.json");
  third = std::move(second);
  CHECK(third.encode("abc <|x|>") == ids);
  CHECK(third.decode(ids) == "abc <|x|>");
}

TEST_CASE("holes among the ids, and bytes without token") {
  const Tokenizer tokenizer =
      Tokenizer::from_json(R"({"model": {"type": "BPE", "vocab": {"a": 0, "b": 5}, "merges": []}, "decoder": {"type": "ByteLevel"},
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false}})");
  CHECK(tokenizer.size() == 6);
  CHECK(tokenizer.encode("ab") == Ids{0, 5});
  CHECK_THROWS_AS(static_cast<void>(tokenizer.decode(Ids{3})), input_error);
  CHECK_THROWS_WITH_AS(static_cast<void>(tokenizer.encode("abc")),
                       "text: expected bytes of the tokenizer's vocabulary, found the byte 99", input_error);
}

TEST_CASE("hostile files end in an error") {
  const std::string text = File().text();
  for (std::size_t length = 0; length < text.size(); length += 37)
    CHECK_THROWS_AS(static_cast<void>(Tokenizer::from_json(text.substr(0, length))), format_error);
  CHECK_THROWS_AS(static_cast<void>(Tokenizer::from_json("[]")), format_error);
  CHECK_THROWS_AS(static_cast<void>(Tokenizer::from_json("{}")), format_error);
  CHECK_THROWS_AS(static_cast<void>(Tokenizer::from_file(golden)), file_error);
  CHECK_THROWS_AS(static_cast<void>(Tokenizer::from_file(golden + "missing.json")), file_error);

  const std::uint32_t seed = 99;
  INFO("seed ", seed);
  std::mt19937 random(seed);
  for (int round = 0; round < 1500; ++round) {
    std::string damaged = text;
    for (auto n = 1 + random() % 3; n > 0; --n) {
      const std::size_t at = random() % damaged.size();
      if (random() % 2 == 0) {
        damaged[at] = "\"{}[]:,0-a\\ "[random() % 12];
      } else {
        damaged.erase(at, 1 + random() % 40);
      }
    }
    try {
      const Tokenizer tokenizer = Tokenizer::from_json(damaged);
      static_cast<void>(tokenizer.encode("abc <|x|>"));
    } catch (const format_error&) {
    } catch (const input_error&) {
    }
  }
}
