#include <array>
#include <cstdio>
#include <mllama/io/checkpoint.hpp>
#include <mllama/layers/linear.hpp>

using namespace mllama;

int main(int, char** argv) {
  Checkpoint files = Checkpoint::open(argv[1]);  // a folder as Hugging Face saves it; mapped, not read
  Linear<NF4, 128, 256> gate;
  files.bind(gate.weight.weights, NAME, std::array<std::size_t, 2>{256, 128});
  std::printf("the weights are %s\n", gate.weight.weights.loaded() ? "there" : "missing");

  Linear<NF4, 128, 512> wider;
  try {
    files.bind(wider.weight.weights, NAME, std::array<std::size_t, 2>{512, 128});
  } catch (const shape_error&) {
    std::puts("a layer that is too wide is refused");  // what() names file, tensor, expected and found
  }
}
