// SPDX-License-Identifier: MIT
// text inputs FILE: writes the ids of a short text. text logits FILE: checks what `logits` made of them.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <mllama/io/safetensors_writer.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace {

void write_inputs(const std::string& path) {
  const std::array<std::int64_t, 6> ids{128000, 128006, 400, 90001, 128007, 127999};
  const std::vector<mllama::FileTensor> tensors{{"input_ids", mllama::Dtype::I64, {1, ids.size()}, std::as_bytes(std::span(ids))}};
  mllama::write_safetensors(path, tensors);
}

/// Whether each row is finite, and no more certain or uncertain than a model's logits are.
bool check_logits(const std::string& path) {
  const mllama::Safetensors file(path);
  const mllama::FileTensor* const tensor = file.find("logits");
  if (tensor == nullptr || tensor->shape.size() != 3) throw mllama::format_error("no logits (batch, length, vocabulary)");
  const std::size_t vocabulary = tensor->shape[2];
  std::vector<float> row(vocabulary);
  bool good = tensor->size() > 0;
  for (std::size_t r = 0; r < tensor->size() / vocabulary; ++r) {
    std::memcpy(row.data(), tensor->bytes.data() + r * vocabulary * sizeof(float), vocabulary * sizeof(float));
    const double largest = double{*std::max_element(row.begin(), row.end())};
    double sum = 0, weighted = 0;
    for (const float logit : row) {
      const double below = double{logit} - largest;
      sum += std::exp(below);
      weighted += std::exp(below) * below;
    }
    const double entropy = std::log(sum) - weighted / sum, share = entropy / std::log(static_cast<double>(vocabulary));
    const bool sane = std::isfinite(entropy) && share > 0.1 && share < 0.9;
    if (!sane) std::printf("row %zu: entropy %f, largest logit %f\n", r, entropy, largest);
    good &= sane;
  }
  return good;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    if (argc == 3 && argv[1] == std::string_view("inputs")) return write_inputs(argv[2]), 0;
    if (argc == 3 && argv[1] == std::string_view("logits")) return check_logits(argv[2]) ? 0 : 1;
    std::fprintf(stderr, "usage: text inputs|logits FILE\n");
  } catch (const std::exception& problem) {
    std::fprintf(stderr, "%s\n", problem.what());
  }
  return 1;
}
