#include <cstdio>
#include <mllama/core/tensor.hpp>

using namespace mllama;

int main() {
  Tensor<float, Tokens, Dim<4>> x({3});  // three rows, known when the program runs, of four features, known to the compiler
  x.fill(1);
  x[2][3] = 5;
  const View<float, Tokens, Dim<4>> last = x.view().slice(2, 1);  // no copy: a pointer and a number of rows
  // const View<float, ImageTokens, Dim<4>> other = x;            // error: rows of another meaning
  // const View<float, Tokens, Dim<5>> wider = x;                 // error: another number of features
  std::printf("%zu rows, %zu elements, the last row ends with %g\n", x.rows(), x.size(), double{last[0][3]});
}
