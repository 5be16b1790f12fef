// SPDX-License-Identifier: MIT
#include <cstdio>

#include <mllama/mllama.hpp>

int main() {
  mllama::Context ctx(2);                                              // needs threads
  const mllama::SplitPattern words(R"(\p{L}+)", "main.cpp", "words");  // needs PCRE2
  std::printf("mllama %d.%d.%d, %s\n", MLLAMA_VERSION_MAJOR, MLLAMA_VERSION_MINOR, MLLAMA_VERSION_PATCH,
              mllama::cpu<>::name.data());
}
