// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <span>
#include <vector>

#include <mllama/layers/linear.hpp>

namespace mllama_test {

using OwnedMatrix = std::vector<float>;

/// The weights of a linear whose outputs are heads of `head_dim`: head h is head `heads[h]` of the given one.
template <int In, int Out>
OwnedMatrix with_rows_of(const mllama::Linear<mllama::F32, In, Out>& linear, std::span<const std::size_t> heads,
                         std::size_t head_dim) {
  OwnedMatrix rows;
  const float* from = linear.weight.data();
  for (const std::size_t head : heads) rows.insert(rows.end(), from + head * head_dim * In, from + (head + 1) * head_dim * In);
  return rows;
}

/// The same for a linear whose inputs are heads.
template <int In, int Out>
OwnedMatrix with_columns_of(const mllama::Linear<mllama::F32, In, Out>& linear, std::span<const std::size_t> heads,
                            std::size_t head_dim) {
  OwnedMatrix out;
  for (std::size_t row = 0; row < Out; ++row) {
    const float* from = linear.weight.data() + row * In;
    for (const std::size_t head : heads) out.insert(out.end(), from + head * head_dim, from + (head + 1) * head_dim);
  }
  return out;
}

}  // namespace mllama_test
