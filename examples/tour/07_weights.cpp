#include <array>
#include <cstdio>
#include <mllama/io/checkpoint.hpp>
#include <mllama/layers/linear.hpp>

using namespace mllama;

int main(int, char** argv) {
  Checkpoint files = Checkpoint::open(argv[1]);  // a folder as Hugging Face saves it; mapped, not read
  // Names are the same for all releases of transformers: without the leading `model` and `language_model`.
  constexpr std::string_view name = "layers.0.mlp.gate_proj.weight";
  Linear<NF4, 128, 256> gate;
  files.bind(gate.weight.weights, name, std::array<std::size_t, 2>{256, 128});
  std::printf("the weights are %s\n", gate.weight.weights.loaded() ? "there" : "missing");

  Linear<NF4, 128, 512> wider;
  try {
    files.bind(wider.weight.weights, name, std::array<std::size_t, 2>{512, 128});
  } catch (const shape_error&) {
    std::puts("a layer that is too wide is refused");  // what() names file, tensor, expected and found
  }
}
