// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <vector>

#include "padded_prompt.hpp"

using namespace mllama;
using namespace mllama_test;

namespace {

constexpr std::uint32_t seed = 59;
using Logits = PaddedRun<Tiny>::Logits;

std::span<const float> row(const Logits& logits, std::size_t index) {
  return logits.flat().subspan(index * TinyText::vocab, TinyText::vocab);
}
bool is_zero(std::span<const float> values) {
  return std::ranges::all_of(values, [](float value) { return value == 0; });
}

}  // namespace

TEST_CASE("padded inputs") {
  CAPTURE(seed);
  const auto random = random_weights<Tiny>(seed);
  const Tiny& model = *random.model;
  Context ctx(1);
  RandomPicture<> a(seed), b(seed + 1, 1);

  SUBCASE("padding on either side changes no row, and steps go on from there") {
    const Ids longer{4, image, 5, 6, 7}, shorter{image, 8, 9};
    for (const Numerics& numerics : all_profiles) {
      PaddedRun<Tiny> first(model, numerics), second(model, numerics);
      const Logits one = first.prompt(PaddedPrompt({longer}, {&a}).inputs(), ctx);
      const Logits two = second.prompt(PaddedPrompt({shorter}, {&b}).inputs(), ctx);
      const Logits one_step = first.step(std::vector<std::int64_t>{3}, ctx),
                   two_step = second.step(std::vector<std::int64_t>{2}, ctx);
      for (const bool left : {false, true}) {
        CAPTURE(left);
        PaddedRun<Tiny> both(model, numerics);
        const Logits logits = both.prompt(PaddedPrompt({longer, shorter}, {&a, &b}, left).inputs(), ctx);
        for (std::size_t r = 0; r < 5; ++r) CHECK(difference(row(logits, r), row(one, r)) < reordered);
        for (std::size_t r = 0; r < 3; ++r) CHECK(difference(row(logits, 5 + r + (left ? 2 : 0)), row(two, r)) < reordered);
        for (const std::size_t r : {0U, 1U}) CHECK(is_zero(row(logits, 5 + r + (left ? 0 : 3))));
        const Logits step = both.step(std::vector<std::int64_t>{3, 2}, ctx);
        CHECK(difference(row(step, 0), row(one_step, 0)) < reordered);
        CHECK(difference(row(step, 1), row(two_step, 0)) < reordered);
      }
    }
  }
  SUBCASE("a row without pictures is plain text, as the weights were trained") {
    const Ids with{image, 5, 6}, without{7, 8, 9};
    const Logits logits = PaddedRun<Tiny>(model, {}).prompt(PaddedPrompt({with, without}, {&a}).inputs(), ctx);
    const Logits text = PaddedRun<Tiny>(model, {}).prompt(PaddedPrompt({without}).inputs(), ctx);
    for (std::size_t r = 0; r < 3; ++r) CHECK(difference(row(logits, 3 + r), row(text, r)) < reordered);
  }
  SUBCASE("masks that are not given let everything through") {
    PaddedPrompt prompt({{image, 5, 6}}, {&a});
    const Logits given = PaddedRun<Tiny>(model, {}).prompt(prompt.inputs(), ctx);
    prompt.attention_mask.clear();
    prompt.cross_attention_mask.clear();
    CHECK(same(PaddedRun<Tiny>(model, {}).prompt(prompt.inputs(), ctx).flat(), given.flat()));
  }
  SUBCASE("rows and batches of padding alone") {
    PaddedPrompt prompt({{4, 5}, {6, 7}});
    prompt.attention_mask = {0, 0, 1, 1};
    const Logits logits = PaddedRun<Tiny>(model, {}).prompt(prompt.inputs(), ctx);
    CHECK(is_zero(logits.flat().first(2 * TinyText::vocab)));
    CHECK_FALSE(is_zero(row(logits, 2)));
    prompt.attention_mask = {0, 0, 0, 0};
    CHECK(is_zero(PaddedRun<Tiny>(model, {}).prompt(prompt.inputs(), ctx).flat()));
    CHECK(PaddedRun<Tiny>(model, {}).prompt(PaddedInputs{}, ctx).size() == 0);
  }
}

TEST_CASE("padded inputs that do not fit are refused by name, and a run goes on as if they had not been there") {
  const auto random = random_weights<Tiny>(seed);
  Context ctx(1);
  RandomPicture<> a(seed), b(seed + 1, 1), c(seed + 2);
  const PaddedPrompt good({{image, 5, 6}, {4, image, 5}}, {&a, &b});
  PaddedRun<Tiny> run(*random.model, {});
  const Logits before = run.prompt(good.inputs(), ctx);

  const auto field = [&](auto&& damage) {
    PaddedPrompt bad({{image, 5, 6}, {4, image, 5}, {image, image, 2}}, {&c, &a, &b, &c});
    damage(bad);
    const Fault fault = refused([&] { static_cast<void>(run.prompt(bad.inputs(), ctx)); });
    CHECK_FALSE(fault.expected.empty());
    CHECK_FALSE(fault.found.empty());
    return fault.field;
  };
  CHECK(field([](PaddedPrompt& p) { p.input_ids.pop_back(); }) == "input_ids");
  CHECK(field([](PaddedPrompt& p) { p.attention_mask.pop_back(); }) == "attention_mask");
  CHECK(field([](PaddedPrompt& p) { p.pixel_values.pop_back(); }) == "pixel_values");
  CHECK(field([](PaddedPrompt& p) { p.aspect_ratio_ids.push_back(1); }) == "aspect_ratio_ids");
  CHECK(field([](PaddedPrompt& p) { p.aspect_ratio_mask.clear(); }) == "aspect_ratio_mask");
  CHECK(field([](PaddedPrompt& p) { p.cross_attention_mask.pop_back(); }) == "cross_attention_mask");
  CHECK(field([](PaddedPrompt& p) { p.attention_mask[1] = 2; }) == "attention_mask");
  CHECK(field([](PaddedPrompt& p) { p.aspect_ratio_mask[1] = -1; }) == "aspect_ratio_mask");
  CHECK(field([](PaddedPrompt& p) { p.cross_attention_mask[1] = 7; }) == "cross_attention_mask");
  for (const std::int64_t id : {std::int64_t{-1}, std::int64_t{4}, std::int64_t{1} << 40}) {
    CHECK(field([id](PaddedPrompt& p) { p.aspect_ratio_ids[3] = id; }) == "aspect_ratio_ids");
  }
  for (const std::int64_t id : {std::int64_t{-1}, std::int64_t{521}, std::int64_t{1} << 32}) {
    CHECK(field([id](PaddedPrompt& p) { p.input_ids[8] = id; }) == "input_ids");
    CHECK(refused([&] { static_cast<void>(run.step(std::vector<std::int64_t>{1, id}, ctx)); }).field == "input_ids");
  }
  CHECK(refused([&] { static_cast<void>(run.step(std::vector<std::int64_t>{1, 2, 3}, ctx)); }).field == "decode_input_ids");

  PaddedRun<Tiny> fresh(*random.model, {});
  CHECK(same(fresh.prompt(good.inputs(), ctx).flat(), before.flat()));
  const std::vector<std::int64_t> next{3, 4};
  CHECK(same(fresh.step(next, ctx).flat(), run.step(next, ctx).flat()));
}

TEST_CASE("a model without its vision part takes text and refuses pictures") {
  const auto random = random_weights<Tiny>(seed);
  Tiny text_only;
  text_only.language_model = random.model->language_model;
  Context ctx(1);
  const PaddedPrompt text({{4, 5, 6}, {7, 8}});
  PaddedRun<Tiny> run(text_only, {}), whole(*random.model, {});
  CHECK(same(run.prompt(text.inputs(), ctx).flat(), whole.prompt(text.inputs(), ctx).flat()));
  RandomPicture<> picture(seed);
  const PaddedPrompt pictures({{image, 5, 6}}, {&picture});
  const Fault fault = refused([&] { static_cast<void>(run.prompt(pictures.inputs(), ctx)); });
  CHECK(fault.field == "pixel_values");
  CHECK(fault.note.find("no vision model") != std::string::npos);
}
