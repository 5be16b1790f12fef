// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <filesystem>
#include <string>
#include <vector>

#include <mllama/generate/chat.hpp>
#include <mllama/models/mllama/adapted.hpp>
#include <mllama/models/mllama/llama.hpp>

#include "tiny_folder.hpp"

using namespace mllama;
using namespace mllama_test;

namespace {

constexpr std::uint32_t seed = 79;

/// Counts passes through the vision model, and text rows.
struct Work {
  std::size_t* pictures;
  std::size_t* rows;
  void operator()(Tap tap, const auto& view) const {
    if (tap.name == "vision_output") ++*pictures;
    if (tap.name == "hidden_states" && tap.index == 0) *rows += view.length(0);
  }
};

struct Fixture {
  TinyFolder folder{seed};
  Pretrained<Tiny> model = load<Tiny>(folder.path());
  std::size_t pictures = 0, rows = 0;
  Context<cpu<>, Work> ctx{1, Work{&pictures, &rows}};
};

}  // namespace

TEST_CASE_FIXTURE(Fixture, "an answer is what generation makes of the rendered conversation, in whole characters") {
  for (const bool sampled : {false, true}) {
    const SamplingSettings sampling{.do_sample = sampled, .top_k = 40};
    Chat chat(model, ctx, {.sampling = sampling, .max_new_tokens = 30, .seed = seed});
    const Image picture = gradient(40, 20, 1);
    chat.system("Be brief.");
    chat.user(picture, "What is this?");
    std::vector<std::string> pieces;
    const std::string answer = chat.answer([&](std::string_view piece) { pieces.emplace_back(piece); });
    std::string joined;
    for (const std::string& piece : pieces) {
      CHECK_FALSE(piece.empty());
      CHECK((static_cast<unsigned char>(piece[0]) & 0xC0U) != 0x80);  // no piece begins within a character
      joined += piece;
    }
    CHECK(joined == answer);
    CHECK(chat.messages().size() == 3);

    const std::vector<Message> messages(chat.messages().begin(), chat.messages().end() - 1);
    const auto prompt = model.tokenizer->encode(render_chat(messages, {.chat_template = ChatTemplate::plain}));
    Session session(model.model(), ctx);
    Sampler sampler(sampling, seed);
    const std::vector encoded{model.encode(picture, ctx)};
    TextStream stream(*model.tokenizer);
    std::string expected;
    generate(session, std::span(prompt), std::span(encoded), sampler, {model.generation.eos, 30}, [&](std::int32_t id) {
      expected += stream.push(id);
      return true;
    });
    expected += stream.finish();
    CHECK(answer == expected);
  }
}

TEST_CASE_FIXTURE(Fixture, "a second question does no vision work, and runs only what is new") {
  Chat chat(model, ctx);
  chat.user(gradient(40, 20, 1), "What is this?");
  static_cast<void>(chat.answer());
  CHECK(pictures == 1);
  const ChatTimings first = chat.timings();
  CHECK(first.pictures == 1);
  CHECK(first.prompt_tokens > 5);
  CHECK(first.decoded_tokens <= 11);  // 12 of generation_config.json, the first of them with the prompt
  CHECK(rows == first.prompt_tokens + first.decoded_tokens);

  chat.user("And what else?");
  const std::string answer = chat.answer();
  const ChatTimings second = chat.timings();
  CHECK(pictures == 1);
  CHECK(second.pictures == 1);
  CHECK(second.encode == first.encode);
  CHECK(rows == second.prompt_tokens + second.decoded_tokens);
  const std::vector<Message> asked(chat.messages().begin(), chat.messages().end() - 1);
  const auto prompt = model.tokenizer->encode(render_chat(asked, {.chat_template = ChatTemplate::plain}));
  CHECK(second.prompt_tokens < first.prompt_tokens + prompt.size() - first.prompt_tokens / 2);

  SUBCASE("and says what a new conversation would say") {
    Chat fresh(model, ctx);
    fresh.user(gradient(40, 20, 1), "What is this?");
    static_cast<void>(fresh.answer());
    fresh.user("And what else?");
    CHECK(fresh.answer() == answer);
  }
  SUBCASE("a second picture is encoded alone") {
    chat.user(gradient(20, 40, 2), "And this?");
    static_cast<void>(chat.answer());
    CHECK(pictures == 2);
    CHECK(chat.timings().pictures == 2);
  }
  SUBCASE("pictures that are encoded already are not encoded again") {
    const auto picture = model.encode(gradient(20, 40, 2), ctx);
    Chat other(model, ctx);
    other.user({picture, picture}, "Which one?");
    static_cast<void>(other.answer());
    CHECK(pictures == 2);
    CHECK(other.timings().pictures == 0);
  }
}

TEST_CASE_FIXTURE(Fixture, "a screened head changes no answer") {
  for (const SamplingSettings& sampling : {SamplingSettings{}, SamplingSettings{.do_sample = true, .top_k = 5}}) {
    Chat plain(model, ctx, {.sampling = sampling, .max_new_tokens = 20});
    Chat screened(model, ctx, {.sampling = sampling, .max_new_tokens = 20, .screen = true});
    plain.user("ab");
    screened.user("ab");
    CHECK(screened.answer() == plain.answer());
  }
}

TEST_CASE_FIXTURE(Fixture, "the callback ends an answer") {
  Chat chat(model, ctx, {.max_new_tokens = 40});
  chat.user("Tell me.");
  std::size_t calls = 0;
  const std::string answer = chat.answer([&](std::string_view) { return ++calls < 2; });
  CHECK(calls == 2);
  CHECK_FALSE(answer.empty());
  chat.user("Go on.");
  CHECK_NOTHROW(static_cast<void>(chat.answer()));
}

TEST_CASE_FIXTURE(Fixture, "limits") {
  SUBCASE("no new tokens") {
    Chat chat(model, ctx, {.max_new_tokens = 0});
    chat.user("Tell me.");
    CHECK(chat.answer().empty());
    CHECK(chat.timings().decoded_tokens == 0);
  }
  SUBCASE("as many as the model has positions for") {
    Chat chat(model, ctx, {.max_new_tokens = 100000});
    chat.user("Tell me.");
    static_cast<void>(chat.answer());
    CHECK(chat.timings().prompt_tokens + chat.timings().decoded_tokens < 200);
  }
  SUBCASE("a prompt that is too long") {
    Chat chat(model, ctx);
    chat.user(std::string(2000, '?') + " a b c d e f g h i j k l m n o p q r s t u v w x y z");
    const std::string text = message<input_error>([&] { static_cast<void>(chat.answer()); });
    CHECK(text.find("prompt: expected fewer than 200 tokens, found ") == 0);
  }
}

TEST_CASE_FIXTURE(Fixture, "what a conversation cannot do") {
  SUBCASE("an image token without its picture") {
    Chat chat(model, ctx);
    CHECK(message<input_error>([&] { chat.user("<|image|> What is this?"); }) ==
          "images: expected 1 more, for the image tokens of the text, found none");
    CHECK(chat.messages().empty());
  }
  SUBCASE("a broken picture: nothing is added to the conversation") {
    Chat chat(model, ctx);
    const std::vector<Image> images{gradient(9, 9, 1), Image{}};
    CHECK(message<input_error>([&] { chat.user(images, "What are these?"); }).find("image: ") == 0);
    CHECK(chat.messages().empty());
  }
  SUBCASE("without a tokenizer") {
    std::filesystem::remove(folder / "tokenizer.json");
    const auto bare = load<Tiny>(folder.path());
    CHECK(message<file_error>([&] { Chat(bare, ctx); }) == folder / "tokenizer.json" + ": expected a file, found none");
  }
}

TEST_CASE("a text model alone chats about text") {
  const TextOnlyFolder folder(seed);
  const auto text_only = load<Tiny>(folder.path());
  const TinyFolder whole_folder(seed);
  const auto whole = load<Tiny>(whole_folder.path());
  Context ctx(1);
  Chat chat(text_only, ctx), expected(whole, ctx);
  for (const char* const question : {"What is this?", "And what else?"}) {
    chat.user(question);
    expected.user(question);
    CHECK(chat.answer() == expected.answer());
  }
  CHECK(message<input_error>([&] { chat.user(gradient(9, 9, 1), "What is in this picture?"); }) ==
        "images: expected none, found at least one: this folder has no vision model, only the language model");
  CHECK(chat.messages().size() == 4);
}

namespace {

struct TinyLlamaText : LlamaConfig {
  static constexpr int vocab = 514, hidden = 24, inner = 40, heads = 4, kv_heads = 2, layers = 3;
};
struct TinyLlama : Llama<TinyLlamaText> {
  static constexpr std::string_view name = "tiny-llama";
};

/// As LlamaForCausalLM is saved, with the embedding as its head.
class LlamaFolder : public TinyFolder {
 public:
  LlamaFolder() : TinyFolder(seed) {
    write("config.json",
          R"({"model_type": "llama", "vocab_size": 514, "hidden_size": 24, "intermediate_size": 40, "num_attention_heads": 4,
              "num_key_value_heads": 2, "num_hidden_layers": 3, "max_position_embeddings": 200, "tie_word_embeddings": true,
              "rms_norm_eps": 1e-05, "rope_theta": 500000.0,
              "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                               "original_max_position_embeddings": 8192}})");
    std::filesystem::remove(*this / "preprocessor_config.json");
    std::vector<SavedTensor> tensors = saved_tensors(*llama.model);
    std::erase_if(tensors, [](const SavedTensor& tensor) { return tensor.name == "lm_head.weight"; });
    save(*this / "model.safetensors", tensors);
  }

  RandomModel<TinyLlama> llama = random_weights<TinyLlama>(seed);
};

}  // namespace

TEST_CASE("a folder of Llama is talked to as any other, with adapters or without, and has no eyes") {
  const LlamaFolder folder;
  std::string answer;
  const auto talk = [&]<class Model>(std::type_identity<Model>) {
    const auto model = load<Model>(folder.path());
    Context ctx(1);
    Chat chat{model, ctx, {.sampling = SamplingSettings{}, .max_new_tokens = 12}};
    chat.user("What is this?");
    answer = chat.answer();
    CHECK_THROWS_AS(chat.user(gradient(40, 20, 1), "And this?"), error);
  };
  with_model_of(folder.path(), Models<TinyLlama>{}, talk);
  const std::string plain = std::exchange(answer, {});
  CHECK_FALSE(plain.empty());
  with_model_of(folder.path(), AdaptedModels<Models<TinyLlama>>{}, talk);
  CHECK(answer == plain);
}
