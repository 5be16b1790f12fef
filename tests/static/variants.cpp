// SPDX-License-Identifier: MIT
// What the variants in examples/variants say about released models.
#include "../../examples/variants/early_exit.hpp"
#include "../../examples/variants/int8_cross_keys.hpp"
#include "../../examples/variants/llama.hpp"
#include "../../examples/variants/lora_on_cross_attention.hpp"
#include "../../examples/variants/mixture_of_experts.hpp"
#include "../../examples/variants/other_cross_layers.hpp"
#include "../../examples/variants/siglip.hpp"
#include "../../examples/variants/sliding_window.hpp"
#include "../../examples/variants/two_layer_projector.hpp"
#include "../../examples/variants/wider_mlp.hpp"

namespace mllama {
namespace {

constexpr ParameterCount base = count_parameters<Llama32Vision11B>();
using Text = Llama32Vision11B::Text;
template <class Variant>
constexpr ParameterCount count = count_parameters<Variant>();

// Three matrices of each of 40 perceptrons are twice as large.
static_assert(count<WiderMLP<Llama32Vision11B>>.elements == base.elements + 40ULL * 3 * Text::hidden * Text::inner);
// A layer that attends has two norms of heads and two gates beside what one that does not has.
static_assert(count<OtherCrossLayers<Llama32Vision11B, 0, 39>>.tensors == base.tensors - 6 * 4);
static_assert(count<OtherCrossLayers<Llama32Vision11B, 0, 39>>.elements == base.elements - 6 * (2 * 128 + 2));
// What is stored is the same.
static_assert(count<LoRAOnCrossAttention<Llama32Vision11B>>.elements == base.elements);
static_assert(count<Int8CrossKeys<Llama32Vision11B>>.elements == base.elements);
static_assert(count<SlidingWindow<Llama32Vision11B, 4096>>.elements == base.elements);
static_assert(count<EarlyExit<Llama32Vision11B, 24>>.elements == base.elements);
// A second matrix and bias.
static_assert(count<LlavaProjector<Llama32Vision11B>>.elements == base.elements + Text::hidden * Text::hidden + Text::hidden);
// Seven more perceptrons, and the linear that chooses.
static_assert(count<MixtureOfExpertsMLP<Llama32Vision11B>>.elements ==
              base.elements + 40ULL * (7ULL * 3 * Text::hidden * Text::inner + 8 * Text::hidden));
// As transformers counts them, without the pooling head.
static_assert(count_parameters<SiglipVisionModel<SiglipSo400M>>().elements == 412'987'248);
static_assert(VisionShape<SiglipSo400M>::image_tokens == 729);
// Llama-3.2-1B has 1 235 814 400, its embedding counted once.
static_assert(count<Llama32_1B>.elements == 1'235'814'400 + 128256ULL * 2048);

}  // namespace
}  // namespace mllama
