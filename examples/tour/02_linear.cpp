#include <cstdio>
#include <mllama/layers/linear.hpp>
#include <mllama/models/mllama/random.hpp>

using namespace mllama;

int main() {
  using Layer = Linear<NF4, 64, 32>;  // 4-bit weights, 64 features in, 32 out
  const auto random = random_weights<Layer>();
  Context ctx;  // the best instructions of this processor, all cores
  Tensor<float, Tokens, Dim<64>> x({2});
  x.fill(0);
  x[1][7] = 1;  // the second row picks a column of the weights
  const auto y = (*random.model)(x, ctx);
  std::puts(Layer::repr(*random.model).c_str());
  std::printf("y has %zu rows of %zu; the first is %g, and the second is %s\n", y.rows(), y[0].size(), double{y[0][0]},
              y[1][0] != 0 ? "not" : "zero");
}
