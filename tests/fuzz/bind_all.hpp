// SPDX-License-Identifier: MIT
#pragma once

#include <mllama/core/context.hpp>
#include <mllama/io/checkpoint.hpp>
#include <mllama/kernels/matmul.hpp>
#include <string>
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

/// Binds every tensor of a checkpoint under its own name and, unless a quantisation state says another one, its own shape.
inline void bind_all(mllama::Checkpoint& checkpoint) {
  std::vector<std::string> names;
  for (const std::string_view name : checkpoint.unused()) names.emplace_back(name);
  for (const std::string& name : names) {
    mllama::Shape shape = checkpoint.find(name)->shape;
    for (const auto* const type : {"nf4", "fp4"}) {
      const mllama::FileTensor* const state = checkpoint.find(mllama::concat(name, ".quant_state.bitsandbytes__", type));
      if (state == nullptr) continue;
      takes([&] {
        const std::string_view text(reinterpret_cast<const char*>(state->bytes.data()), state->bytes.size());
        mllama::Shape stated;
        for (const mllama::JsonField& length : mllama::parse_json(text, "state")["shape"].elements(8))
          stated.push_back(length.as<std::size_t>());
        shape = stated;
      });
    }
    takes([&] {
      mllama::Weights<mllama::Stored> weights;
      checkpoint.bind(weights, name, shape);
      require(weights.loaded(), "what is bound is loaded");
      use(weights);
    });
    takes([&] {
      mllama::Weights<mllama::F32> weights;
      checkpoint.bind(weights, name, shape);
      use(weights);
    });
  }
}

}  // namespace mllama_fuzz
