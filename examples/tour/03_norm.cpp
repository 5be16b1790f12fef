#include <array>
#include <cstdio>
#include <mllama/layers/norm.hpp>

using namespace mllama;

int main() {
  const std::array<float, 2> weight{1, 2};
  RMSNorm<2> norm;
  norm.weight.weights = {weight.data(), 1, 2};  // parameters refer to memory of the file, or of the caller
  Context ctx(1);                               // one thread
  Tensor<float, Tokens, Dim<2>> x({1});
  x[0][0] = 3;
  x[0][1] = 4;
  const auto y = norm(x, ctx);  // divided by sqrt((9 + 16) / 2), times the weight
  std::printf("%.4f %.4f\n", double{y[0][0]}, double{y[0][1]});
}
