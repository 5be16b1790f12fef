// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include <mllama/observe/observers.hpp>
#include <mllama/observe/recorder.hpp>

#include "sequence.hpp"

using namespace mllama;
using namespace mllama_test;

namespace {

constexpr std::uint32_t seed = 77;

/// Everything, by the name and index of the tap: shape, and values.
using Records = std::map<std::string, Recorder::Record>;
const std::vector<std::string_view> all_taps{"hidden_states",
                                             "input_layernorm",
                                             "post_attention_layernorm",
                                             "self_attention",
                                             "cross_attention",
                                             "cross_attn_attn_gate",
                                             "cross_attn_mlp_gate",
                                             "q_norm",
                                             "k_norm",
                                             "norm",
                                             "logits",
                                             "vision_states",
                                             "vision_output",
                                             "vision_attention",
                                             "vision_input_layernorm",
                                             "vision_post_attention_layernorm",
                                             "gate_attn",
                                             "gate_ffn",
                                             "layernorm_pre",
                                             "layernorm_post",
                                             "cross_attention_states",
                                             "attended",
                                             "vision_attended",
                                             "transformer",
                                             "global_transformer",
                                             "v_proj"};

template <class Ctx>
std::vector<float> run(const Tiny& model, Ctx& ctx) {
  RandomPicture<> source(seed, 1);
  const Picture picture = model.encode(source.tiles(), Tiny::numerics, ctx);
  Sequence with({TinyText::image_token, 4, 5}, {&picture}), without({7, 8});
  std::vector<float> logits;
  for (const std::size_t rows : {2U, 1U}) {
    std::vector<std::int32_t> ids, positions;
    std::vector<TextSequence<TinyText>> sequences;
    sequences.push_back(without.next(1, ids, positions));
    sequences.push_back(with.next(rows, ids, positions));
    const auto states = model.forward({ids, positions, sequences}, Tiny::numerics, ctx);
    const auto last = model.language_model.logits(states.view().slice(rows, 1), ctx);
    logits.insert(logits.end(), last.flat().begin(), last.flat().end());
  }
  return logits;
}

using Shape = std::vector<std::size_t>;

}  // namespace

TEST_CASE("every tap is passed in its layer, with its axes; watching changes nothing") {
  const auto random = random_weights<Tiny>(seed);
  const Tiny& model = *random.model;
  Context<cpu<>, Recorder> ctx(2, Recorder(all_taps));
  const auto watched = run(model, ctx);
  Context<> alone(2);
  CHECK(same(watched, run(model, alone)));

  Records records;
  for (const Recorder::Record& record : ctx.observer().records()) records[record.name] = record;
  const auto shape = [&](const std::string& name) {
    CAPTURE(name);
    REQUIRE(records.contains(name));
    return records[name].shape;
  };
  constexpr std::size_t hidden = TinyText::hidden, rows = 5;  // rows: of both passes
  using Vision = VisionShape<TinyVision>;
  constexpr std::size_t positions = TinyVision::tiles * Vision::padded, image_tokens = Vision::image_tokens;
  CHECK(shape("hidden_states.0") == Shape{rows, hidden});
  for (std::size_t layer = 0; layer < TinyText::layers; ++layer) {
    const auto index = concat(".", layer);
    const bool cross = layer == 1 || layer == 3;
    CHECK(shape(concat("hidden_states.", layer + 1)) == Shape{rows, hidden});
    CHECK(shape("attended" + index) == Shape{rows, hidden});
    CHECK(shape("input_layernorm" + index) == Shape{rows, hidden});
    CHECK(shape("post_attention_layernorm" + index) == Shape{rows, hidden});
    CHECK(records.contains("q_norm" + index) == cross);
    CHECK(records.contains("k_norm" + index) == cross);
    CHECK(records.contains("v_proj" + index) == cross);
    CHECK(records.contains("self_attention" + index) == !cross);
    CHECK(records.contains("cross_attention" + index) == cross);
    CHECK(records.contains("cross_attn_attn_gate" + index) == cross);
    CHECK(records.contains("cross_attn_mlp_gate" + index) == cross);
  }
  CHECK(shape("q_norm.1") == Shape{rows, hidden});
  CHECK(shape("k_norm.3") == Shape{image_tokens, TextShape<TinyText>::kv_width});
  CHECK(shape("cross_attn_mlp_gate.3") == Shape{2});
  CHECK(records["cross_attn_attn_gate.1"].values[0] == model.language_model.model.layers.cross[0].cross_attn_attn_gate());
  CHECK(shape("norm") == Shape{2, hidden});
  CHECK(shape("logits") == Shape{2, TinyText::vocab});
  CHECK(same(records["logits"].values, watched));
  CHECK(shape("vision_output") == Shape{image_tokens, Vision::output});
  CHECK(shape("cross_attention_states") == Shape{image_tokens, hidden});
  CHECK(shape("layernorm_pre.1") == Shape{Vision::positions, TinyVision::hidden});
  CHECK(shape("layernorm_post") == Shape{positions, TinyVision::hidden});
  CHECK(shape("transformer") == Shape{positions, TinyVision::hidden});
  CHECK(shape("global_transformer") == Shape{positions, TinyVision::hidden});
  for (std::size_t layer = 0; layer < TinyVision::layers + TinyVision::global_layers; ++layer) {
    const auto index = concat(".", layer);
    CHECK(shape("vision_states" + index) == Shape{positions, TinyVision::hidden});
    CHECK(shape("vision_attended" + index) == Shape{positions, TinyVision::hidden});
    CHECK(shape("vision_input_layernorm" + index) == Shape{positions, TinyVision::hidden});
    CHECK(shape("vision_post_attention_layernorm" + index) == Shape{positions, TinyVision::hidden});
    CHECK(shape("vision_attention" + index) == Shape{TinyVision::heads, positions, positions});
    CHECK(records.contains("gate_attn" + index) == (layer >= TinyVision::layers));
    CHECK(records.contains("gate_ffn" + index) == (layer >= TinyVision::layers));
  }

  // Rows of a batch, sequence by sequence, pass by pass; keys of the longest, 0 behind those of the others.
  REQUIRE(shape("self_attention.0") == Shape{TinyText::heads, rows, 3});
  const std::vector<float>& self = records["self_attention.0"].values;
  const std::size_t seen[]{1, 1, 2, 2, 3};
  for (std::size_t i = 0; i < TinyText::heads * rows; ++i) {
    float sum = 0;
    for (std::size_t key = 0; key < 3; ++key) {
      CHECK((self[3 * i + key] > 0) == (key < seen[i % rows]));
      sum += self[3 * i + key];
    }
    CHECK(std::abs(sum - 1) < 1e-6F);
  }
  // Only sequences with pictures attend to them, and only to the tile that there is.
  REQUIRE(shape("cross_attention.3") == Shape{TinyText::heads, 3, image_tokens});
  const std::vector<float>& cross = records["cross_attention.3"].values;
  for (std::size_t i = 0; i < cross.size(); ++i) CHECK((cross[i] > 0) == (i % image_tokens < Vision::positions));
}

namespace {
/// Writes zeros over one tap.
struct Eraser {
  std::string name;
  void replace(const Tap& tap, const auto& view) const {
    if (name_of(tap) == name) std::ranges::fill(view.flat(), 0.0F);
  }
};
}  // namespace

TEST_CASE("what an observer writes over a tap is what the model goes on with") {
  const auto random = random_weights<Tiny>(seed);
  const Tiny& model = *random.model;
  Context<> alone(1);
  const auto plain = run(model, alone);
  for (const std::string name : {"hidden_states.0",
                                 "hidden_states.2",
                                 "hidden_states.5",
                                 "attended.1",
                                 "attended.4",
                                 "input_layernorm.0",
                                 "post_attention_layernorm.3",
                                 "q_norm.1",
                                 "k_norm.3",
                                 "v_proj.1",
                                 "norm",
                                 "logits",
                                 "layernorm_pre.0",
                                 "vision_states.1",
                                 "vision_states.3",
                                 "vision_attended.2",
                                 "transformer",
                                 "layernorm_post",
                                 "global_transformer",
                                 "vision_output",
                                 "cross_attention_states"}) {
    CAPTURE(name);
    Context<cpu<>, Eraser> ctx(1, Eraser{name});
    CHECK_FALSE(same(plain, run(model, ctx)));
  }
  // Others are shown what was written. A gate's factor is only read.
  using Both = Observers<Recorder, Eraser>;
  Context<cpu<>, Both> ctx(1, Both(Recorder{{"norm"}}, Eraser{"norm"}));
  CHECK(std::ranges::all_of(run(model, ctx), [](float logit) { return logit == 0; }));
  const auto records = ctx.observer().get<Recorder>().records();
  CHECK(std::ranges::all_of(records.at(0).values, [](float value) { return value == 0; }));
  Context<cpu<>, Eraser> gate(1, Eraser{"cross_attn_mlp_gate.1"});
  CHECK(same(plain, run(model, gate)));
}
