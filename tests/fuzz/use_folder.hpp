// SPDX-License-Identifier: MIT
#pragma once

#include <mllama/core/context.hpp>
#include <mllama/io/checkpoint.hpp>
#include <mllama/io/model_files.hpp>
#include <mllama/kernels/matmul.hpp>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "fuzz.hpp"

namespace mllama_fuzz {

/// Reads every element of a matrix, alone and in a product.
template <class F>
void use(const mllama::Weights<F>& weights) {
  static mllama::Context<> context(1);
  const auto [rows, columns] = mllama::with_format(weights, [](const auto& w) { return std::pair(w.rows, w.columns); });
  std::vector<float> elements(rows * columns);
  const std::size_t half = elements.size() / 2;
  weights.decode(0, std::span(elements).first(half));
  weights.decode(half, std::span(elements).subspan(half));
  if (elements.empty()) return;
  const std::vector<float> x(2 * columns, 1.0F);
  std::vector<float> y(2 * rows);
  mllama::kernels::matmul(context, {x.data(), 2, columns}, weights, {}, {y.data(), 2, rows});
  [[maybe_unused]] static volatile float kept;  // so that none of it can be left out
  for (const float element : elements) kept = element;
  for (const float product : y) kept = product;
}

/// Binds every tensor under its own name and in its own shape, and reads its bytes as they are for a model.
inline void use(mllama::Checkpoint checkpoint) {
  for (const mllama::ModelTensor& tensor : checkpoint.tensors()) {
    require(checkpoint.find(tensor.name) == &tensor, "a tensor is found by its name");
    require(mllama::ModelFiles::read(tensor).bytes().size() == tensor.bytes(), "a tensor has the bytes of its shape");
    const auto bind = [&]<class F>(mllama::Weights<F> weights) {
      takes([&] {
        checkpoint.bind(weights, tensor.name, checkpoint.own_shape(tensor));
        require(weights.loaded(), "what is bound is loaded");
        use(weights);
      });
    };
    bind(mllama::Weights<mllama::Stored>());
    bind(mllama::Weights<mllama::F32>());
  }
}

/// Opens a model folder as one that must be right, and as one whose faults are listed.
inline void use_folder(const std::string& folder) {
  const bool is_right = takes([&] { use(mllama::Checkpoint::open(folder)); });
  std::vector<mllama::Fault> faults;
  takes([&] {
    use(mllama::Checkpoint(mllama::ModelFiles::open(folder, &faults)));
    require(is_right == faults.empty(), "a folder without faults can be opened, and only such a one");
  });
}

}  // namespace mllama_fuzz
