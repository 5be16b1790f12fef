// SPDX-License-Identifier: MIT
#include <array>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <mllama/generate/adapters.hpp>
#include <mllama/generate/session.hpp>
#include <mllama/models/mllama/describe.hpp>
#include <variants/early_exit.hpp>
#include <variants/int8_cross_keys.hpp>
#include <variants/llama.hpp>
#include <variants/lora_on_cross_attention.hpp>
#include <variants/mixture_of_experts.hpp>
#include <variants/other_cross_layers.hpp>
#include <variants/siglip.hpp>
#include <variants/sliding_window.hpp>
#include <variants/two_layer_projector.hpp>
#include <variants/wider_mlp.hpp>

#include "comparison.hpp"

/// The models of examples/variants, against what transformers' modules compute when they are put together in the same way.

using namespace mllama;

namespace {

/// What the variants differ from; no folder has just this.
struct BaseVision : VisionConfig {
  static constexpr int image = 14, patch = 7, tiles = 2;
  static constexpr int hidden = 8, inner = 12, heads = 2, layers = 2, global_layers = 1;
  static constexpr std::array intermediate{0};
  static constexpr std::array aspect_ratios{TileGrid{1, 1}, TileGrid{1, 2}, TileGrid{2, 1}};
};
struct BaseText : TextConfig {
  static constexpr int vocab = 40, image_token = 40, pad_token = 0;
  static constexpr int hidden = 16, inner = 24, heads = 4, kv_heads = 2, layers = 5;
  static constexpr std::array cross{1, 3};
};
struct Base : Mllama<BaseVision, BaseText> {};
/// The same with experts of half the width.
struct Narrow : Base {
  struct Text : BaseText {
    static constexpr int inner = 12;
  };
};
struct TinySiglip : SiglipConfig {
  static constexpr int image = 23, patch = 7, hidden = 8, inner = 12, heads = 2, layers = 2;
};

/// Llamas as their folders have them.
struct TinyLlamaText : LlamaConfig {
  static constexpr int vocab = 40, hidden = 16, inner = 24, heads = 2, kv_heads = 1, layers = 3;
  static constexpr double rope_theta = 100;
};
struct PlainLlamaText : TinyLlamaText {
  static constexpr RopeScaling rope_scaling{};
};
template <int Factor>
struct ScaledLlamaText : TinyLlamaText {
  static constexpr RopeScaling rope_scaling{.factor = Factor, .original_max_position_embeddings = 32};
};

std::string folder_of(std::string_view name) { return concat(MLLAMA_TEST_DATA "/golden/variants/", name); }

/// The largest error of a model's outputs, each of which must be in the file, and all that is there.
template <Backend B, class Model>
double worst_error(const Model& model, const std::string& folder) {
  const InputFile inputs(folder + "/case.safetensors");
  const Safetensors expected(folder + "/case.expected.safetensors");
  const auto outputs = run_logits<B>(model, inputs, profile::transformers_4_56::numerics, 2);
  CHECK(outputs.size() == expected.tensors().size());
  double worst = 0;
  for (const NamedTensor& output : outputs) {
    CAPTURE(output.name);
    const FileTensor* const tensor = expected.find(concat("transformers_4_56/", output.name));
    REQUIRE(tensor != nullptr);
    REQUIRE(tensor->shape == output.shape);
    worst = std::max(worst, mllama_test::relative_error(output.values, *tensor));
  }
  return worst;
}

template <class Model>
void check_model(const Model& model, const std::string& folder) {
  const double fast = worst_error<cpu<>>(model, folder), reference = worst_error<mllama::reference>(model, folder);
  std::printf("%-60s worst error %.1e, reference %.1e\n", folder.substr(folder.find("variants/")).c_str(), fast, reference);
  CHECK(fast <= mllama_test::float32_tolerance);
  CHECK(reference <= mllama_test::float32_tolerance);
}

double largest_difference(std::span<const float> a, std::span<const float> b) {
  REQUIRE(a.size() == b.size());
  double largest = 0;
  for (std::size_t i = 0; i < a.size(); ++i) largest = std::max(largest, std::abs(double{a[i]} - double{b[i]}));
  return largest;
}

template <class Model>
double error_of(std::string_view name) {
  const std::string folder = folder_of(name);
  const InputFile inputs(folder + "/case.safetensors");
  const Safetensors expected(folder + "/case.expected.safetensors");
  const auto outputs = run_logits(*load_weights<Model>(folder).model, inputs, profile::transformers_4_56::numerics, 1);
  return mllama_test::relative_error(outputs.front().values, *expected.find("transformers_4_56/logits"));
}

template <class Model>
void check_variant(std::string_view name) {
  const std::string folder = folder_of(name);
  check_model(*load_weights<Model>(folder).model, folder);
}

}  // namespace

TEST_CASE("wider MLP") {
  check_variant<WiderMLP<Base>>("wider_mlp");
  CHECK_THROWS_AS(static_cast<void>(load_weights<Base>(folder_of("wider_mlp"))), config_error);
}

TEST_CASE("other cross-attention layers") {
  check_variant<OtherCrossLayers<Base, 0, 2, 3>>("other_cross_layers");
  CHECK_THROWS_AS(static_cast<void>(load_weights<Base>(folder_of("other_cross_layers"))), config_error);
}

TEST_CASE("LoRA on cross-attention only") {
  const std::string folder = folder_of("lora_on_cross_attention");
  const auto loaded = load_weights<LoRAOnCrossAttention<Base>>(folder);
  CHECK(worst_error<cpu<>>(*loaded.model, folder) > 0.01);  // the adapter is not there yet
  Context ctx(1);
  Adapters adapters;
  adapters.add(loaded, folder + "/adapter", ctx);
  check_model(*loaded.model, folder);
}

TEST_CASE("cross-attention with keys and values of 8-bit weights") {
  check_variant<Int8CrossKeys<Base>>("int8_cross_keys");
  CHECK_THROWS_AS(static_cast<void>(load_weights<Int8CrossKeys<Base>>(folder_of("lora_on_cross_attention"))), error);
}

TEST_CASE("sliding-window self-attention") {
  check_variant<SlidingWindow<Base, 3>>("sliding_window");
  CHECK(error_of<SlidingWindow<Base, 4>>("sliding_window") > 1e-3);
  CHECK(error_of<Base>("sliding_window") > 1e-3);
}

TEST_CASE("early exit") {
  const std::string folder = folder_of("early_exit");
  const auto loaded = load_weights<EarlyExit<Base, 3>>(folder);
  check_model(*loaded.model, folder);
  CHECK(error_of<EarlyExit<Base, 2>>("early_exit") > 1e-3);
}

TEST_CASE("a projector of two layers with GELU") { check_variant<LlavaProjector<Base>>("two_layer_projector"); }

TEST_CASE("mixture of experts") { check_variant<MixtureOfExpertsMLP<Narrow, 4>>("mixture_of_experts"); }

TEST_CASE("another vision model") {
  check_variant<SiglipTower<Base, TinySiglip>>("siglip");
  CHECK_THROWS_AS(static_cast<void>(load_weights<Base>(folder_of("siglip"))), config_error);
}

TEST_CASE("Llama alone: rotations of 3.0, 3.1 and 3.2, a head of its own or tied") {
  check_variant<Llama<PlainLlamaText>>("llama");
  check_variant<Llama<ScaledLlamaText<8>>>("llama_scaled_8");
  check_variant<Llama<ScaledLlamaText<32>>>("llama_scaled_32_tied");
  const auto message = [](auto&& load) {
    try {
      load();
    } catch (const config_error& problem) {
      return problem.fault().field;
    }
    return std::string("none");
  };
  CHECK(message([] { static_cast<void>(load_weights<Llama<ScaledLlamaText<32>>>(folder_of("llama_scaled_8"))); }) ==
        "text_config.rope_scaling.factor");
  CHECK(message([] { static_cast<void>(load_weights<Base>(folder_of("llama"))); }) == "text_config.model_type");

  // Sessions take it, and it asks for pictures in vain.
  const auto loaded = load_weights<Llama<PlainLlamaText>>(folder_of("llama"));
  CHECK_FALSE(loaded.model->has_vision());
  Context ctx(1);
  Session session(*loaded.model, ctx);
  const auto whole = session.append(std::array{1, 5, 7, 9});
  const std::vector<float> logits(whole.begin(), whole.end());
  session.truncate(2);
  CHECK(largest_difference(session.append(std::array{7, 9}), logits) < mllama_test::float32_tolerance);
  CHECK(
      describe(*loaded.model).starts_with("LlamaForCausalLM(\n  (model): MllamaTextModel(\n    (embed_tokens): Embedding(40, 16"));
}
