// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <cmath>
#include <string>
#include <vector>

#include <mllama/observe/logit_lens.hpp>
#include <unit/models/sequence.hpp>

using namespace mllama;
using namespace mllama_test;

namespace {

constexpr std::uint32_t seed = 31;
using Lens = LogitLens<TinyText>;
using Guess = Lens::Guess;

/// Probabilities of float32 logits that one product or another gave.
constexpr double probability_tolerance = 1e-5;

Guess best(std::span<const float> logits) {
  const auto most = std::max_element(logits.begin(), logits.end());
  double total = 0;
  for (const float logit : logits) total += std::exp(double{logit} - double{*most});
  return {static_cast<std::int32_t>(most - logits.begin()), static_cast<float>(1 / total)};
}
bool near(const Guess& a, const Guess& b) {
  return a.id == b.id && std::abs(a.probability - b.probability) < probability_tolerance;
}

}  // namespace

TEST_CASE("the head is asked after every layer, for the last row of each pass") {
  const auto random = random_weights<Tiny>(seed);
  const Tiny& model = *random.model;
  for (const bool with_picture : {false, true}) {
    CAPTURE(with_picture);
    Context<cpu<>, Lens> ctx(1, Lens(model.language_model));
    Context<cpu<>> plain(1);
    const mllama_test::Picture picture = model.encode(RandomPicture<>(seed).tiles(), Tiny::numerics, plain);
    Sequence sequence({with_picture ? TinyText::image_token : 3, 4, 5, 6}, with_picture
                                                                               ? std::vector<const mllama_test::Picture*>{&picture}
                                                                               : std::vector<const mllama_test::Picture*>{});
    std::vector<Guess> expected;
    for (const std::size_t rows : {3U, 1U}) {
      std::vector<std::int32_t> ids, positions;
      const TextSequence<TinyText> next = sequence.next(rows, ids, positions);
      const auto states = model.forward({ids, positions, {&next, 1}}, Tiny::numerics, ctx);
      expected.push_back(best(model.language_model.logits(states.view().slice(rows - 1, 1), ctx).flat()));
    }
    const auto& passes = ctx.observer().passes();
    REQUIRE(passes.size() == 2);
    CHECK(near(passes[0].back(), expected[0]));
    CHECK(near(passes[1].back(), expected[1]));
    // Before any layer: the embedding of the last token. Without a picture, cross-attention layers 1 and 3 change nothing.
    const auto embedded = model.language_model.model.embed_tokens.rows<Tokens>(std::vector<std::int32_t>{6}, plain);
    CHECK(near(passes[1][0], best(model.language_model.logits(embedded, plain).flat())));
    CHECK((passes[1][1].probability == passes[1][2].probability) == !with_picture);
    ctx.observer().clear();
    CHECK(ctx.observer().passes().empty());
  }
  Context<cpu<>, Lens> off(1, Lens(model.language_model, false));
  Sequence sequence({1, 2});
  std::vector<std::int32_t> ids, positions;
  const TextSequence<TinyText> next = sequence.next(2, ids, positions);
  static_cast<void>(model.language_model.logits(model.forward({ids, positions, {&next, 1}}, Tiny::numerics, off), off));
  CHECK(off.observer().passes().empty());
}

TEST_CASE("a table has a line for each layer and columns as wide as their tokens") {
  const auto random = random_weights<Tiny>(seed);
  Context<cpu<>, Lens> ctx(1, Lens(random.model->language_model));
  Sequence sequence({1, 2, 3});
  for (int pass = 0; pass < 3; ++pass) {
    std::vector<std::int32_t> ids, positions;
    const TextSequence<TinyText> next = sequence.next(1, ids, positions);
    static_cast<void>(
        random.model->language_model.logits(random.model->forward({ids, positions, {&next, 1}}, Tiny::numerics, ctx), ctx));
  }
  const auto text = [](std::int32_t) {
    return std::string_view("\xc3\xa9\n\x01\xff");
  };  // é, a line break, a control, half a letter
  const std::string table = ctx.observer().table(text);
  CHECK(std::count(table.begin(), table.end(), '\n') == 6);
  CHECK(table.starts_with("embed     '\xc3\xa9\\n?\xef\xbf\xbd' "));
  CHECK(table.find("\nlayer 4   '\xc3\xa9\\n?") != table.npos);
  const std::string narrow = ctx.observer().table(text, 20);
  CHECK(std::count(narrow.begin(), narrow.end(), '\n') == 3 * 6 + 2);
  CHECK(narrow.find("\n\nembed ") != narrow.npos);
}
