// SPDX-License-Identifier: MIT
// What the compiler knows of a model's costs.
#include <string_view>

#include <mllama/layers/mixture.hpp>
#include <mllama/models/mllama/models.hpp>
#include <mllama/models/mllama/plan.hpp>
#include <mllama/models/mllama/siglip.hpp>

namespace mllama {
namespace {

template <class Model>
constexpr Cost cost_of(const Plan<Model>& plan, std::string_view name) {
  Cost cost;
  for (const ModuleCost& module : plan.modules) {
    if (module.name == name) cost = module.cost;
  }
  return cost;
}
constexpr bool near(double found, double expected) { return found > expected * (1 - 1e-12) && found < expected * (1 + 1e-12); }

// Bytes of the released model as synthesize writes it, but for the JSON texts and tables that go with 4-bit codes.
constexpr Plan<Llama32Vision11B> instruct = plan<Llama32Vision11B>({.tokens = 512, .images = 1, .new_tokens = 1});
static_assert(instruct.total().tensors == 906 && instruct.total().parameters == 10'670'220'835);
static_assert(instruct.total().weights == 7'179'336'774);
static_assert(plan<Llama32Vision11B>({}, {.storage = {BF16::name}}).total().weights == 2 * instruct.total().parameters);
static_assert(plan<Llama32Vision90B>({}, {.storage = {F32::name}}).total().weights == 4 * 88'593'355'323);

// Operations as PyTorch 2.9.1 counts them (torch.utils.flop_counter) in transformers 4.57.6, of one picture.
static_assert(near(cost_of(instruct, "patch_embedding").flops, 9'633'792'000));
static_assert(near(cost_of(instruct, "transformer").flops, 14'871'492'034'560));
static_assert(near(cost_of(instruct, "global_transformer").flops, 3'717'873'008'640));
static_assert(near(cost_of(instruct, "multi_modal_projector").flops, 402'904'842'240));

// The same for a small model: 100 tokens with a picture. PyTorch did not count attention there, of which text has known pairs of rows.
struct SmallVision : VisionConfig {
  static constexpr int image = 84, hidden = 128, inner = 384, heads = 4, layers = 4, global_layers = 2;
  static constexpr std::array intermediate{1, 3};
};
struct SmallText : TextConfig {
  [[maybe_unused]] static constexpr int vocab = 640, image_token = 640, pad_token = 628;
  static constexpr int hidden = 128, inner = 256, heads = 4, kv_heads = 2, layers = 6;
  static constexpr std::array cross{2, 4};
};
using Small = Mllama<SmallVision, SmallText>;
constexpr Plan<Small> small = plan<Small>({.tokens = 100, .images = 1, .new_tokens = 1});
static_assert(near(cost_of(small, "patch_embedding").flops, 21'676'032));
static_assert(near(cost_of(small, "transformer").flops, 209'715'200 + 4.0 * 4 * 128 * 160 * 160));
static_assert(near(cost_of(small, "layers, self-attention").flops, 117'964'800 + 4.0 * 4 * 128 * 5050));
static_assert(near(cost_of(small, "layers, cross-attention").flops, 62'128'128 + 2.0 * 4 * 128 * 100 * 148));
static_assert(near(cost_of(small, "lm_head").flops, 163'840));

// Tokens one by one compute what the same rows do at once, but for a head for each.
constexpr Plan<Small> steps = plan<Small>({.tokens = 40, .images = 1, .new_tokens = 61});
static_assert(near(cost_of(steps, "layers, self-attention").flops, cost_of(small, "layers, self-attention").flops));
static_assert(near(cost_of(steps, "lm_head").flops, 61 * 163'840.0));

// Caches: keys and values of so many positions, of 32 and of 8 layers.
static_assert(text_cache_bytes<Text11B>(KeyFormat::f32, 1000) == 32 * 2 * 1000 * 1024 * 4);
static_assert(text_cache_bytes<Text11B>(KeyFormat::bf16, 1000) == 32 * 2 * 1000 * 1024 * 2);
static_assert(text_cache_bytes<Text11B>(KeyFormat::int8, 1000) == 32 * 2 * 1000 * (1024 + 8 * 4));
static_assert(picture_bytes<Llama32Vision11B>(KeyFormat::f32) == 8 * 2 * 6404 * 1024 * 4);
static_assert(plan<Llama32Vision11B>({.tokens = 10, .images = 3, .new_tokens = 5}, {.keys = KeyFormat::f16}).total().caches ==
              text_cache_bytes<Text11B>(KeyFormat::f16, 15) + 3 * picture_bytes<Llama32Vision11B>(KeyFormat::f16));

// Without pictures neither vision nor cross-attention is read or computed.
constexpr Plan<Small> text_only = plan<Small>({.tokens = 100, .images = 0, .new_tokens = 1});
static_assert(cost_of(text_only, "transformer").flops == 0 && cost_of(text_only, "layers, cross-attention").flops == 0);
static_assert(cost_of(text_only, "transformer").read == 0 && cost_of(text_only, "layers, cross-attention").read == 0);
static_assert(cost_of(text_only, "transformer").weights == cost_of(small, "transformer").weights);

// Variants: a window, layers that are left out, a mixture whose rows take two of eight experts, another vision model.
struct Windowed : SmallText {
  static constexpr int window = 10;
};
static_assert(near(cost_of(plan<Mllama<SmallVision, Windowed>>({.tokens = 100}), "layers, self-attention").flops,
                   117'964'800 + 4.0 * 4 * 128 * (55 + 90 * 10)));
struct Shallow : SmallText {
  static constexpr int exit_after = 3;
};
static_assert(near(cost_of(plan<Mllama<SmallVision, Shallow>>({.tokens = 100}), "layers, self-attention").flops,
                   cost_of(small, "layers, self-attention").flops / 2));
struct Mixed : SmallText {
  template <class C>
  using mlp = MixtureOfExperts<typename C::weights, C::hidden, C::inner, 8>;
};
static_assert(near(cost_of(plan<Mllama<SmallVision, Mixed>>({.tokens = 100}), "layers, self-attention").flops,
                   cost_of(small, "layers, self-attention").flops + 4 * (19'660'800.0 + 2.0 * 100 * 128 * 8)));
struct Siglip : SiglipConfig {
  static constexpr int image = 84, hidden = 128, inner = 384, heads = 4, layers = 4;
};
static_assert(near(cost_of(plan<Mllama<Siglip, SmallText>>({.tokens = 100}), "encoder").flops,
                   4 * (36 * 2.0 * (4 * 128 * 128 + 2 * 128 * 384) + 4.0 * 128 * 36 * 36)));

}  // namespace
}  // namespace mllama
