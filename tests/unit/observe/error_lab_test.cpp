// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <mllama/models/mllama/siglip.hpp>
#include <mllama/observe/error_lab.hpp>
#include <mllama/observe/recorder.hpp>
#include <unit/generate/padded_prompt.hpp>

using namespace mllama;
using namespace mllama_test;

namespace {

constexpr std::uint32_t seed = 83;
using Lab = Context<cpu<>, ErrorLab>;
using Side = LabSide<Tiny>;

/// Divergences of logits that one product or another gave.
constexpr double divergence_tolerance = 1e-9;

/// A prompt; its pictures are `pictures`.
PromptInputs prompt(const Ids& ids, std::vector<RandomPicture<>*> pictures = {}) {
  const PaddedPrompt packed({ids}, std::move(pictures));
  ImageBatch batch{.samples = 1,
                   .images = packed.images,
                   .tiles = TinyVision::tiles,
                   .tile = TinyVision::image,
                   .pixel_values = packed.pixel_values,
                   .aspect_ratio_ids = packed.aspect_ratio_ids,
                   .aspect_ratio_mask = packed.aspect_ratio_mask,
                   .num_tiles = {{}}};
  for (std::size_t i = 0; i < packed.images; ++i) {
    batch.num_tiles[0].push_back(static_cast<std::size_t>(
        std::ranges::count(std::span(packed.aspect_ratio_mask).subspan(i * TinyVision::tiles, TinyVision::tiles), 1)));
  }
  return {ids, std::move(batch), TinyText::image_token};
}

ErrorReport compare(const Side& reference, const Side& other, const PromptInputs& inputs, std::size_t most = 3) {
  Lab ctx(1);
  compare_sides(reference, other, inputs, most, {}, ctx.observer(), ctx);
  return ctx.observer().report<Tiny>();
}

/// The modules that make an error, separated by spaces.
std::string that_make(const ErrorReport& report) {
  std::string names;
  for (const ModuleError& of : report.modules) {
    if (of.made != 0) names += concat(names.empty() ? "" : " ", of.module);
  }
  return names;
}

struct TinySiglip : SiglipConfig {
  using weights = F32;
  static constexpr int image = 28, patch = 14, hidden = 12, inner = 20, heads = 2, layers = 2;
};
struct WithSiglip : Mllama<TinySiglip, TinyText> {};

/// The module whose line tells of a parameter.
std::string line_of(std::string key) {
  const std::string layers = "language_model.model.layers.";
  const auto replace_end = [&](std::string_view end, std::string_view by) {
    if (key.ends_with(end)) key.replace(key.size() - end.size(), end.size(), by);
  };
  for (const std::string_view first : {"vision_model.class_embedding", "vision_model.patch_embedding", "vision_model.gated_pos",
                                       "vision_model.pre_tile", "vision_model.layernorm_pre"}) {
    if (key.starts_with(first)) return "vision_model.layernorm_pre";
  }
  const bool cross = key.starts_with(layers + "1.") || key.starts_with(layers + "3.");
  for (const std::string_view whole :
       {"vision_model.post_tile_positional_embedding", "vision_model.layernorm_post", "multi_modal_projector",
        "language_model.model.embed_tokens", "language_model.model.norm", "language_model.lm_head"}) {
    if (key.starts_with(whole)) return std::string(whole);
  }
  for (const std::string_view norm : {".weight", ".bias"}) {
    replace_end(concat(".input_layernorm", norm), cross ? ".cross_attn." : ".self_attn.");
    replace_end(concat(".post_attention_layernorm", norm), ".mlp.");
  }
  replace_end(".gate_attn", ".self_attn.");
  replace_end(".gate_ffn", ".mlp.");
  replace_end(".cross_attn_attn_gate", ".cross_attn.");
  replace_end(".cross_attn_mlp_gate", ".mlp.");
  replace_end(".k_norm.weight", ".k_norm");
  if (cross) replace_end(".k_proj.weight", ".k_norm");
  if (cross) replace_end(".v_proj.weight", ".v_proj");
  if (key.ends_with(".k_norm") || (cross && key.ends_with(".v_proj"))) return key;
  for (const std::string_view branch : {".self_attn", ".cross_attn", ".mlp"}) {
    if (const std::size_t at = key.find(concat(branch, ".")); at != key.npos) return key.substr(0, at + branch.size());
  }
  return "no line for " + key;
}

}  // namespace

TEST_CASE("two runs of the same have no error at all") {
  const auto random = random_weights<Tiny>(seed);
  RandomPicture<> picture(seed, 1), second(seed + 1);
  for (const Numerics& numerics : all_profiles) {
    const Side side{random.model.get(), numerics};
    Lab ctx(1);
    const auto text = compare_sides(side, side, prompt({4, 5, 6}), 4, {}, ctx.observer(), ctx);
    CHECK(text == greedy_answer(side, prompt({4, 5, 6}).padded(), 4, {}, ctx));
    const std::vector<std::int32_t> eos{static_cast<std::int32_t>(text[1])};
    CHECK(compare_sides(side, side, prompt({4, 5, 6}), 4, eos, ctx.observer(), ctx).size() <= 2);
    compare_sides(side, side, prompt({4, image, 5, image, 7}, {&picture, &second}), 4, {}, ctx.observer(), ctx);
    const ErrorReport report = ctx.observer().report<Tiny>();
    for (const ModuleError& of : report.modules) {
      CAPTURE(of.module);
      CHECK(of.in == 0);
      CHECK(of.made == 0);
      CHECK(of.out == 0);
    }
    REQUIRE(report.answers.size() == 3);
    CHECK(report.all_answers().largest == 0);
    CHECK(report.all_answers().changed == 0);
    CHECK(report.changed_answers() == 0);
    CHECK(report.first_that_makes(0) == nullptr);
    CHECK(report.first_that_has(0) == nullptr);

    // The order is that of a run with pictures, though the first prompt had none.
    std::string taps;
    for (const ModuleError& of : report.modules) taps += concat(of.tap, " ");
    CHECK(taps ==
          "vision_states.0 vision_attended.0 vision_states.1 vision_attended.1 vision_states.2 "
          "vision_attended.2 transformer layernorm_post vision_states.3 vision_attended.3 vision_states.4 "
          "vision_attended.4 global_transformer vision_output cross_attention_states k_norm.1 v_proj.1 k_norm.3 "
          "v_proj.3 hidden_states.0 attended.0 hidden_states.1 attended.1 hidden_states.2 attended.2 "
          "hidden_states.3 attended.3 hidden_states.4 attended.4 hidden_states.5 norm logits ");
  }
}

TEST_CASE("a weight that is altered is found in its module, and nowhere else") {
  const auto before = random_weights<Tiny>(seed);
  const auto altered = random_weights<Tiny>(seed);
  std::vector<std::pair<std::string, std::span<float>>> parameters;
  for_each_parameter(*altered.model, [&](const std::string& key, const auto& parameter) {
    auto* const first = reinterpret_cast<float*>(altered.memory.at(parameters.size()).get());
    parameters.emplace_back(key, std::span(first, std::remove_cvref_t<decltype(parameter)>::size));
  });
  CHECK(parameters.size() == altered.memory.size());
  RandomPicture<> picture(seed);
  const PromptInputs inputs = prompt({4, image, 5, 6}, {&picture});
  for (const Numerics& numerics : {profile::meta::numerics, profile::transformers_4_56::numerics}) {
    for (const auto& [key, weights] : parameters) {
      CAPTURE(key);
      const std::vector<float> saved(weights.begin(), weights.end());
      for (float& weight : weights) weight *= 1.5F;
      const ErrorReport report = compare({before.model.get(), numerics}, {altered.model.get(), numerics}, inputs, 1);
      std::ranges::copy(saved, weights.begin());
      const std::string line = line_of(key);
      CHECK(that_make(report) == line);
      REQUIRE(report.first_that_has(0) != nullptr);
      CHECK(report.first_that_has(0)->module == line);
      CHECK(report.first_that_has(0)->in == 0);
      CHECK(report.answers[0].largest > 0);
    }
  }
}

TEST_CASE("errors in are those of the tap before") {
  const auto before = random_weights<Tiny>(seed);
  const auto other = random_weights<Tiny>(seed + 1);
  RandomPicture<> picture(seed);
  const ErrorReport report = compare({before.model.get()}, {other.model.get()}, prompt({4, image, 5}, {&picture}));
  const auto of = [&](std::string_view tap) {
    const auto found = std::ranges::find(report.modules, tap, &ModuleError::tap);
    REQUIRE(found != report.modules.end());
    return *found;
  };
  CHECK(of("vision_states.0").in == 0);
  CHECK(of("hidden_states.0").in == 0);
  CHECK(of("transformer").in == of("vision_attended.2").out);
  CHECK(of("k_norm.3").in == of("cross_attention_states").out);
  CHECK(of("v_proj.1").in == of("cross_attention_states").out);
  CHECK(of("attended.1").in == of("hidden_states.1").out);
  CHECK(of("logits").in == of("norm").out);
  CHECK(report.first_that_makes(0)->tap == "vision_states.0");
  const std::string table = report.table();
  CHECK(static_cast<std::size_t>(std::ranges::count(table, '\n')) == 1 + report.modules.size());
  CHECK(table.starts_with("module "));
  CHECK(table.find("\nlanguage_model.model.layers.3.cross_attn.v_proj ") != table.npos);
}

TEST_CASE("profiles and formats of keys differ where they say") {
  const auto random = random_weights<Tiny>(seed);
  const Tiny* model = random.model.get();
  RandomPicture<> picture(seed);
  const PromptInputs inputs = prompt({4, image, 5}, {&picture});
  const Side meta{model, profile::meta::numerics};
  CHECK(that_make(compare(meta, {model, profile::transformers_4_56::numerics}, inputs)) ==
        "vision_model language_model.model.layers.1.cross_attn language_model.model.layers.3.cross_attn");
  CHECK(that_make(compare(meta, {model, profile::meta_rows::numerics}, inputs)) == "vision_model");
  CHECK(that_make(compare(meta, {model, profile::transformers_4_45::numerics}, inputs)) ==
        "language_model.model.layers.1.cross_attn language_model.model.layers.3.cross_attn");
  CHECK(that_make(compare(meta, {model, profile::meta::numerics, Precision::f32, KeyFormat::bf16}, inputs)) ==
        "language_model.model.layers.0.self_attn language_model.model.layers.1.cross_attn "
        "language_model.model.layers.2.self_attn language_model.model.layers.3.cross_attn "
        "language_model.model.layers.4.self_attn");
}

TEST_CASE("the next tokens of the reference's answer are compared") {
  const auto before = random_weights<Tiny>(seed);
  const auto other = random_weights<Tiny>(seed + 1);
  const Side a{before.model.get()}, b{other.model.get()};
  Lab ctx(1);
  PromptInputs inputs = prompt({4, 5, 6});
  const auto answer = compare_sides(a, b, inputs, 3, {}, ctx.observer(), ctx);
  REQUIRE(answer.size() == 3);
  for (const std::int64_t id : {answer[0], answer[1]}) inputs.append(id);
  const auto p = a.run(ctx).prompt(inputs.padded(), ctx), q = b.run(ctx).prompt(inputs.padded(), ctx);
  double sum = 0, largest = 0;
  std::size_t changed = 0, first = 3;
  for (std::size_t token = 0; token < 3; ++token) {
    constexpr std::size_t vocab = TinyText::vocab;
    const auto of_p = p.flat().subspan((2 + token) * vocab, vocab), of_q = q.flat().subspan((2 + token) * vocab, vocab);
    double p_total = 0, q_total = 0, divergence = 0;
    for (std::size_t i = 0; i < vocab; ++i) {
      p_total += std::exp(double{of_p[i]});
      q_total += std::exp(double{of_q[i]});
    }
    for (std::size_t i = 0; i < vocab; ++i) {
      const double p_i = std::exp(double{of_p[i]}) / p_total, q_i = std::exp(double{of_q[i]}) / q_total;
      divergence += p_i * std::log(p_i / q_i);
    }
    sum += divergence;
    largest = std::max(largest, divergence);
    CHECK(std::ranges::max_element(of_p) - of_p.begin() == answer[token]);
    if (std::ranges::max_element(of_q) - of_q.begin() != answer[token] && changed++ == 0) first = token;
  }
  REQUIRE(changed != 0);
  const AnswerError found = ctx.observer().report<Tiny>().answers[0];
  CHECK(found.tokens == 3);
  CHECK(std::abs(found.divergence - sum / 3) < divergence_tolerance);
  CHECK(std::abs(found.largest - largest) < divergence_tolerance);
  CHECK(found.changed == changed);
  CHECK(found.first == first);
  CHECK(ctx.observer().report<Tiny>().changed_answers() == 1);

  // Of several prompts: each token counts the same, and what is not a number is beyond every bound.
  const double nan = std::numeric_limits<double>::quiet_NaN();
  ErrorReport report{{{"a", "a", 0, 0.5, 0.1}, {"b", "b", 0, nan, 0.5}}, {{1, 2, 2, 0, 0}, {3, 6, 9, 2, 1}}};
  CHECK(report.all_answers().divergence == 5);
  CHECK(report.all_answers().largest == 9);
  CHECK(report.all_answers().changed == 2);
  CHECK(report.first_that_makes(0.5)->module == "b");
  CHECK(report.first_that_has(0.5) == nullptr);
  report.answers.push_back({1, nan, nan, 0, 0});
  CHECK(std::isnan(report.all_answers().largest));
}

TEST_CASE("a reference may be given instead of run") {
  const auto random = random_weights<Tiny>(seed);
  const Side side{random.model.get()};
  RandomPicture<> picture(seed);
  const PromptInputs inputs = prompt({4, image, 5, 6}, {&picture});
  Context<cpu<>, Recorder> recorded(1, Recorder{{ErrorLab::watched.begin(), ErrorLab::watched.end()}});
  static_cast<void>(PaddedRun<Tiny>(*side.model, side.numerics).prompt(inputs.padded(), recorded));
  auto records = recorded.observer().records();
  const auto compared = [&] {
    Lab ctx(1);
    ctx.observer().begin_prompt(2);
    for (auto record = records.rbegin(); record != records.rend(); ++record) ctx.observer().give(record->name, record->values);
    compare_with_reference(side, inputs.padded(), ctx.observer(), ctx);
    return ctx.observer().report<Tiny>();
  };
  ErrorReport report = compared();
  CHECK(report.modules.size() == records.size());
  CHECK(that_make(report).empty());
  CHECK(report.first_that_has(0) == nullptr);
  CHECK(report.modules.front().tap == "vision_states.0");
  CHECK(report.modules.back().tap == "logits");
  CHECK(report.answers[0].tokens == 2);

  // Some taps are enough; then a line tells of all modules since the tap before.
  const auto is_other = [](const Recorder::Record& record) {
    return record.name != "attended.2" && record.name != "hidden_states.3";
  };
  const auto all = records;
  std::erase_if(records, is_other);
  REQUIRE(records.size() == 2);
  records[0].values[5] += 1;
  report = compared();
  REQUIRE(report.modules.size() == 2);
  CHECK(report.modules[0].made > 0);
  CHECK(report.modules[0].made == report.modules[0].out);
  CHECK(report.modules[1].made > 0);  // from the wrong stream that was given
  CHECK(report.modules[1].out == 0);
  CHECK(report.answers[0].tokens == 0);  // no logits were given

  records[1].values.pop_back();
  CHECK(refused(compared).field == "hidden_states.3");
  records = all;
  records[3].values.push_back(1);
  CHECK(refused(compared).field == records[3].name);
  CHECK(refused(compared).expected == concat(records[3].values.size(), " numbers, as the reference has"));
  records = all;
  records[0].name = "vision_states.9";
  CHECK(refused(compared).field == "vision_states.9");
  CHECK(refused(compared).found == "none");
}

TEST_CASE("another vision model has other lines") {
  const auto before = random_weights<WithSiglip>(seed), other = random_weights<WithSiglip>(seed + 1);
  const ImageProcessor processor({.tile = TinySiglip::image, .max_tiles = 1});
  const PromptInputs inputs(Ids{image, 4}, processor.pack({{{processor.tiles(Image(20, 20))}}}), image);
  Lab ctx(1);
  compare_sides<WithSiglip>({before.model.get()}, {other.model.get()}, inputs, 1, {}, ctx.observer(), ctx);
  CHECK(that_make(ctx.observer().report<WithSiglip>())
            .starts_with("vision_model.embeddings vision_model.encoder.layers.0 vision_model.post_layernorm multi_modal_projector "
                         "language_model.model.layers.1.cross_attn.k_norm language_model.model.layers.1.cross_attn.v_proj "));
}
