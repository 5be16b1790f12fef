// SPDX-License-Identifier: MIT
// A tokenizer.json, a NUL, and a text for what it makes: both ways, in whole and by pieces.
#include <mllama/core/unicode.hpp>
#include <mllama/text/tokenizer.hpp>

#include "fuzz.hpp"

using mllama::Tokenizer;
using mllama_fuzz::require;
using mllama_fuzz::takes;

namespace {

constexpr std::string_view usual_text =
    "<|begin_of_text|>It's 1234 o'clock,\t  we're\r\n\n  at  caf\xc3\xa9 \xe6\x97\xa5\xe6\x9c\xac \xf0\x9f\x98\x80"
    "!?\x80 \xe2\x80\xa8 x<|image|><|eot_id|>";

std::string streamed(const Tokenizer& tokenizer, std::span<const Tokenizer::Id> ids, bool skip) {
  mllama::TextStream stream(tokenizer, skip);
  std::string text;
  for (const Tokenizer::Id id : ids) text += stream.push(id);
  return text += stream.finish();
}

void encode_and_decode(const Tokenizer& tokenizer, std::string_view text) {
  const std::vector<Tokenizer::Id> ids = tokenizer.encode(text), marked = tokenizer.encode(text, {.add_special_tokens = true});
  require(tokenizer.decode(ids) == mllama::to_valid_utf8(text), "a text is the same after it was encoded");
  for (const Tokenizer::Id id : ids)  // a template may put tokens around it that no text becomes
    require(tokenizer.token_id(tokenizer.id_to_piece(id)).has_value() || tokenizer.is_special(id), "a token has an id");
  for (const bool skip : {false, true}) {
    const std::string decoded = tokenizer.decode(marked, {.skip_special_tokens = skip});
    require(streamed(tokenizer, marked, skip) == decoded, "a stream is the whole text");
    static_cast<void>(tokenizer.decode(marked, {.skip_special_tokens = skip, .clean_up_spaces = true}));
  }
}

std::string small_file(std::string_view pre_tokenizer, std::string_view merges, std::string_view post_processor) {
  return mllama::concat(
      R"({"added_tokens":[{"id":9,"content":"<|eot_id|>","special":true},{"id":10,"content":"!?","normalized":true}],)",
      R"("pre_tokenizer":)", pre_tokenizer, R"(,"decoder":{"type":"ByteLevel"},"post_processor":)", post_processor,
      R"(,"model":{"type":"BPE","ignore_merges":true,"vocab":{"a":0,"b":1,"\u0120":2,"!":3,"ab":4,"\u0120a":5,"\u0120ab":6,)",
      R"("\u010a":7,"c":8},"merges":)", merges, "}}");
}

}  // namespace

std::vector<std::string> mllama_fuzz::seeds() {
  using namespace std::string_literals;
  constexpr std::string_view
      byte_level = R"({"type":"ByteLevel","add_prefix_space":false})",
      whole = R"({"type":"ByteLevel","add_prefix_space":false,"use_regex":false})",
      split = R"({"type":"Sequence","pretokenizers":[)"
              R"({"type":"Split","pattern":{"Regex":"\\s+(?!\\S)|[ab]{1,3}|(?i:'s)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+"},)"
              R"("behavior":"Isolated","invert":false},{"type":"ByteLevel","add_prefix_space":false,"use_regex":false}]})",
      put_around = R"({"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"e","type_id":0}},)"
                   R"({"Sequence":{"id":"A","type_id":0}},{"SpecialToken":{"id":"e"}}],)"
                   R"("special_tokens":{"e":{"id":"e","ids":[9]}}})";
  return {
      small_file(byte_level, R"(["a b","\u0120 a","\u0120a b"])", "null") + "\0 ab!?a b<|eot_id|>aab c\n"s,
      small_file(whole, R"(["a b"])", R"({"type":"ByteLevel"})") + "\0 ab!?\n"s,
      small_file(split, R"([["a","b"],["\u0120","ab"]])", put_around) + "\0abba  \n a"s + std::string(200, '!'),
      repository_file("tests/golden/tokenizer/small/tokenizer.json") + "\0Caf\xc3\xa9 in\t \r\n 12345 . (image)\xff"s,
      repository_file("examples/pocket/tokenizer.json"),
  };
}

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const mllama_fuzz::TwoParts input(mllama_fuzz::text_of(data, size));
  const std::string json(input.json);
  takes([&] {
    const Tokenizer tokenizer = Tokenizer::from_json(json);
    takes([&] { encode_and_decode(tokenizer, input.rest); });
    takes([&] { encode_and_decode(tokenizer, usual_text); });
  });
  return 0;
}
