// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <vector>

#include <mllama/generate/session.hpp>

#include "allocations.hpp"
#include "padded_prompt.hpp"

using namespace mllama;
using namespace mllama_test;

namespace {

constexpr std::uint32_t seed = 53;

/// Text before, between, after and without pictures; pictures one by one and next to each other.
const std::vector<Ids> texts{{4, 5, 6},
                             {image, 5, 6, 7},
                             {4, 5, image, 6},
                             {4, image, image, 5, 6},
                             {image, 4, image, image, 5, 6},
                             {4, image, image, 5, image, 6}};

class Fixture {
 public:
  Fixture()
      : random_(random_weights<Tiny>(seed)),
        sources_{RandomPicture<>(seed), RandomPicture<>(seed + 1, 1), RandomPicture<>(seed + 2)} {
    for (auto& source : sources_) pointers.push_back(&source);
  }
  [[nodiscard]] const Tiny& model() const { return *random_.model; }

  /// Pictures of the image tokens of `ids`, if `before` have been used.
  std::vector<TinyPicture> pictures(std::span<const std::int32_t> ids, const Numerics& numerics, std::size_t before = 0) {
    std::vector<TinyPicture> result;
    for (const std::int32_t id : ids) {
      if (id == image) result.push_back(encoded(model(), *pointers[before++], numerics, ctx));
    }
    return result;
  }
  /// Logits of every position, by the padded way.
  Tensor<float, Rows, Tokens, Dim<TinyText::vocab>> padded(const Ids& ids, const Numerics& numerics) {
    const PaddedPrompt prompt({ids}, pointers);
    return PaddedRun<Tiny>(model(), numerics).prompt(prompt.inputs(), ctx);
  }

  Context<> ctx{1};
  std::vector<RandomPicture<>*> pointers;

 private:
  RandomModel<Tiny> random_;
  std::array<RandomPicture<>, 3> sources_;
};

using TinySession = Session<Tiny, Context<>>;

}  // namespace

TEST_CASE_FIXTURE(Fixture, "a session is the padded prompt with the processor's mask, at once and piece by piece") {
  CAPTURE(seed);
  for (const Numerics& numerics : all_profiles) {
    for (const Ids& ids : texts) {
      CAPTURE(ids.size());
      const auto all = padded(ids, numerics);
      const auto last = all.flat().last(TinyText::vocab);
      TinySession whole(model(), ctx, numerics);
      CHECK(difference(whole.append(ids, pictures(ids, numerics)), last) < reordered);
      for (std::size_t cut = 1; cut < ids.size(); ++cut) {
        CAPTURE(cut);
        TinySession session(model(), ctx, numerics);
        const auto head = std::span(ids).first(cut), tail = std::span(ids).subspan(cut);
        const auto used = pictures(head, numerics);
        static_cast<void>(session.append(head, used));
        CHECK(difference(session.append(tail, pictures(tail, numerics, used.size())), last) < reordered);
      }
    }
  }
}

TEST_CASE_FIXTURE(Fixture, "each step's logits are those of its position") {
  const Ids& ids = texts.back();
  const Numerics& numerics = Tiny::numerics;
  const auto all = padded(ids, numerics);
  TinySession session(model(), ctx, numerics);
  std::size_t used = 0;
  for (std::size_t r = 0; r < ids.size(); ++r) {
    const auto one = std::span(ids).subspan(r, 1);
    const auto logits = session.append(one, pictures(one, numerics, used));
    if (ids[r] == image) ++used;
    CHECK(difference(logits, all.flat().subspan(r * TinyText::vocab, TinyText::vocab)) < reordered);
  }
}

TEST_CASE_FIXTURE(Fixture, "what was forgotten leaves no trace") {
  for (const Numerics& numerics : all_profiles) {
    const Ids& ids = texts[4];
    const auto of_all = pictures(ids, numerics);
    TinySession straight(model(), ctx, numerics);
    const auto found = straight.append(ids, of_all);
    const std::vector<float> expected(found.begin(), found.end());
    for (std::size_t keep = 0; keep < ids.size(); ++keep) {
      CAPTURE(keep);
      TinySession session(model(), ctx, numerics);
      static_cast<void>(session.append(ids, of_all));
      static_cast<void>(session.append(Ids{9, 8, 7}));
      session.truncate(keep);
      CHECK(session.ids().size() == keep);
      const auto rest = std::span(ids).subspan(keep);
      CHECK(difference(session.append(rest, std::span(of_all).subspan(session.pictures().size())), expected) < reordered);
    }
  }
  TinySession session(model(), ctx);
  static_cast<void>(session.append(Ids{1, 2}));
  session.truncate(7);
  CHECK(session.ids().size() == 2);
}

TEST_CASE_FIXTURE(Fixture, "after warm-up a decode step allocates nothing") {
  for (const unsigned threads : {1U, 2U}) {
    Context<> context(threads);
    TinySession session(model(), context);
    Sampler sampler({.do_sample = true, .top_k = 20, .top_p = 0.9, .min_p = 0.01, .repetition_penalty = 1.1});
    const Ids& ids = texts[3];
    session.reserve(64);
    auto logits = session.append(ids, pictures(ids, Tiny::numerics));
    const auto step = [&] {
      const std::int32_t id = sampler(logits, session.ids());
      logits = session.append({&id, 1});
    };
    for (int i = 0; i < 3; ++i) step();
    const std::size_t before = allocations();
    for (int i = 0; i < 20; ++i) step();
    CHECK(allocations() - before == 0);
  }
}

TEST_CASE_FIXTURE(Fixture, "calls that cannot be right are refused, and change nothing") {
  TinySession session(model(), ctx);
  const Ids start{4, image, 5};
  const auto pictures_of_start = pictures(start, Tiny::numerics);
  static_cast<void>(session.append(start, pictures_of_start));
  const auto fault = [&](const Ids& ids, const std::vector<TinyPicture>& given = {}) {
    return refused([&] { static_cast<void>(session.append(ids, given)); });
  };
  CHECK(fault({}).field == "input_ids");
  CHECK(fault({-1}).found == "-1");
  CHECK(fault({6, 521}).expected == "an id from 0 to 520");
  CHECK(fault({image}).field == "images");
  CHECK(fault({6}, pictures_of_start).found == "1");
  CHECK(fault({image, image}, pictures_of_start).expected == "2 for as many image tokens");
  CHECK(fault({image}, {nullptr}).field == "images");
  CHECK(session.ids().size() == 3);
  CHECK(session.pictures().size() == 1);

  const auto found = session.append(Ids{6, 7});
  const std::vector<float> logits(found.begin(), found.end());
  TinySession fresh(model(), ctx);
  static_cast<void>(fresh.append(start, pictures_of_start));
  CHECK(same(fresh.append(Ids{6, 7}), logits));
}

TEST_CASE_FIXTURE(Fixture, "generation") {
  const Ids prompt{4, image, 5};
  const auto given = pictures(prompt, Tiny::numerics);
  const auto run = [&](const StopRules& stop, auto&& on_token) {
    TinySession session(model(), ctx);
    Sampler greedy;
    return generate(session, prompt, std::span(given), greedy, stop, on_token);
  };
  const auto ignore = [](std::int32_t) { return true; };
  const auto tokens = run({{}, 8}, ignore);
  REQUIRE(tokens.size() == 8);

  SUBCASE("greedy tokens are the largest logits of the whole text, run again each time") {
    Ids text = prompt;
    for (const std::int32_t token : tokens) {
      const auto all = padded(text, Tiny::numerics);
      const auto last = all.flat().last(TinyText::vocab);
      CHECK(std::ranges::max_element(last) - last.begin() == token);
      text.push_back(token);
    }
  }
  SUBCASE("an end token is the last one, and belongs to the result") {
    const auto first = std::ranges::find(tokens, tokens[3]);
    CHECK(run({{image, tokens[3]}, 8}, ignore) == std::vector<std::int32_t>(tokens.begin(), first + 1));
  }
  SUBCASE("the callback sees each token, and may end it") {
    std::vector<std::int32_t> seen;
    const auto result = run({{}, 8}, [&](std::int32_t id) {
      seen.push_back(id);
      return seen.size() < 3;
    });
    CHECK(seen == result);
    CHECK(result.size() == 3);
  }
  SUBCASE("nothing was asked for") { CHECK(run({{}, 0}, ignore).empty()); }
  SUBCASE("a session that goes on counts what it holds for the penalty") {
    TinySession session(model(), ctx);
    Sampler sampler({.repetition_penalty = 1e6});
    const auto first = generate(session, std::span<const std::int32_t>(prompt), std::span(given), sampler, {{}, 4}, ignore);
    const auto second = generate(session, std::span(first).last(1), {}, sampler, {{}, 4}, ignore);
    Ids all(first);
    all.insert(all.end(), second.begin(), second.end());
    std::ranges::sort(all);
    CHECK(std::ranges::adjacent_find(all) == all.end());
  }
}

TEST_CASE_FIXTURE(Fixture, "with a screened head: the same tokens, and the same logits where they count") {
  CAPTURE(seed);
  const ScreenedLogits<TinyText> head(model().language_model.lm_head, ctx);
  const Ids prompt{4, image, 5};
  const auto given = pictures(prompt, Tiny::numerics);
  TinySession plain(model(), ctx), screened(model(), ctx);
  screened.screen(&head);
  SUBCASE("logits") {
    const auto whole = plain.append(prompt, given);
    CHECK(same(screened.append(prompt, given), whole));
    screened.truncate(2);
    plain.truncate(2);
    const auto found = plain.append(Ids{5});
    const std::vector<float> all(found.begin(), found.end());
    const auto few = screened.append(Ids{5}, {}, 1);
    std::size_t left_out = 0;
    for (std::size_t i = 0; i < few.size(); ++i) {
      if (few[i] == not_a_candidate) ++left_out;
      CHECK((few[i] == all[i] || few[i] == not_a_candidate));
    }
    CHECK(left_out > few.size() / 2);
    CHECK(std::ranges::max_element(few) - few.begin() == std::ranges::max_element(all) - all.begin());
    screened.screen(nullptr);
    screened.truncate(2);
    CHECK(same(screened.append(Ids{5}, {}, 1), all));
  }
  SUBCASE("tokens") {
    for (const SamplingSettings& settings :
         {SamplingSettings{}, SamplingSettings{.do_sample = true, .temperature = 0.7, .top_k = 1},
          SamplingSettings{.do_sample = true, .temperature = 3, .top_k = 5, .top_p = 0.9, .min_p = 0.01},
          SamplingSettings{.do_sample = true, .top_p = 0.9}, SamplingSettings{.repetition_penalty = 1.5}}) {
      CAPTURE(settings.top_k);
      plain.truncate(0);
      screened.truncate(0);
      Sampler one(settings, seed), other(settings, seed);
      const auto ignore = [](std::int32_t) { return true; };
      const auto expected = generate(plain, std::span(prompt), std::span(given), one, {{}, 24}, ignore);
      CHECK(generate(screened, std::span(prompt), std::span(given), other, {{}, 24}, ignore) == expected);
    }
  }
  SUBCASE("a step allocates nothing") {
    static_cast<void>(screened.append(prompt, given, 1));
    screened.reserve(64);
    const Ids next{6};
    for (int i = 0; i < 3; ++i) static_cast<void>(screened.append(next, {}, 1));
    const std::size_t before = allocations();
    for (int i = 0; i < 20; ++i) static_cast<void>(screened.append(next, {}, 1));
    CHECK(allocations() - before == 0);
  }
}
