// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include <mllama/core/context.hpp>
#include <mllama/core/tensor.hpp>
#include <mllama/kernels/isa/attention.hpp>
#include <mllama/kernels/keys.hpp>
#include <mllama/kernels/reference/attention.hpp>

/// Scaled dot-product attention over the keys that each query may see.

namespace mllama::kernels {

/// `out = softmax(q kᵀ / √head_dim) v` per head, over the visible keys, with a running maximum and sum: the score matrix is never
/// formed. Grouped queries share a key/value head.
/// Shapes:  q, out (rows, heads · head_dim);  blocks: each (count, kv_heads · head_dim) for keys and values
/// Order:   a row's bits depend neither on threads nor on the other rows, but for a row that is alone: its keys are summed in slices; for
///          9 rows and more, unless the arithmetic is F32; and for 48 rows and more, where the processor has AMX
/// Rounding: float32; 9 rows and more, in the arithmetics of integers and bfloat16 on x86: words of 13 bits, scaled by query, key and
///          value; with AMX, as a sum of one, two or three bfloat16 numbers
/// Source:  Vaswani et al. 2017; Ainslie et al. 2023 (arXiv:2305.13245); Dao et al. 2022 (arXiv:2205.14135)
template <class Ctx>
void attention(Ctx& ctx, const Heads& heads, Matrix<const float> q, std::span<const KeyBlock> blocks, const Visibility& visible,
               Matrix<float> out) {
  if (q.rows == 0) return;
  attention_body(typename Ctx::backend{}, ctx, heads, q, blocks, visible, out);
}

}  // namespace mllama::kernels
