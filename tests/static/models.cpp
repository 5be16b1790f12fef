// SPDX-License-Identifier: MIT
// What the types of the released models say about them.
#include <concepts>

#include <mllama/models/mllama/models.hpp>

namespace mllama {
namespace {

// The checkpoints' own numbers of tensors and elements.
constexpr ParameterCount instruct = count_parameters<Llama32Vision11B>(), base = count_parameters<Llama32Vision11BBase>(),
                         large = count_parameters<Llama32Vision90B>();
static_assert(instruct.tensors == 906 && instruct.elements == 10'670'220'835);
static_assert(base.tensors == 906 && base.elements == 10'642'941'475);
static_assert(large.tensors == 1494 && large.elements == 88'593'355'323);

// 40 layers, of which 8 attend to the picture.
using Shape11B = TextShape<Text11B>;
static_assert(Shape11B::self_layers == 32 && Shape11B::cross_layers == 8);
static_assert(!Shape11B::schedule[2].cross && Shape11B::schedule[2].index == 2);
static_assert(Shape11B::schedule[3].cross && Shape11B::schedule[3].index == 0);
static_assert(!Shape11B::schedule[4].cross && Shape11B::schedule[4].index == 3);
static_assert(Shape11B::schedule[38].cross && Shape11B::schedule[38].index == 7);
static_assert(!Shape11B::schedule[39].cross && Shape11B::schedule[39].index == 31);
static_assert(Shape11B::head_dim == 128 && Shape11B::kv_width == 1024);

using Shape90B = TextShape<Text90B>;
static_assert(Shape90B::self_layers == 80 && Shape90B::cross_layers == 20);
static_assert(Shape90B::schedule[98].cross && Shape90B::schedule[98].index == 19);
static_assert(!Shape90B::schedule[99].cross && Shape90B::schedule[99].index == 79);

// 40² patches and the class token; padded to a multiple of 8 inside the encoders.
static_assert(VisionShape<Vision560>::positions == 1601 && VisionShape<Vision560>::padded == 1608);
static_assert(VisionShape<Vision448>::positions == 1025 && VisionShape<Vision448>::padded == 1032);
static_assert(VisionShape<Vision560>::output == 7680 && VisionShape<Vision560>::image_tokens == 6404);

// A schedule follows its list, whatever it is: none, and all but one.
struct Plain : Text11B {
  static constexpr int layers = 3;
  static constexpr std::array<int, 0> cross{};
};
struct Crossed : Plain {
  static constexpr std::array cross{0, 2};
};
static_assert(TextShape<Plain>::cross_layers == 0 && TextShape<Plain>::schedule[2].index == 2);
static_assert(TextShape<Crossed>::self_layers == 1 && TextShape<Crossed>::schedule[2].cross &&
              TextShape<Crossed>::schedule[2].index == 1);

// The default is what the weights were trained with.
static_assert(Llama32Vision11B::numerics == profile::meta::numerics);
static_assert(Mllama<Vision560, Text11B, profile::transformers_4_56>::numerics == profile::transformers_4_56::numerics);

static_assert(std::same_as<JoinModels<ReleasedModels, Models<>>, ReleasedModels>);

}  // namespace
}  // namespace mllama
