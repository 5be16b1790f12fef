// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>

#include <mllama/core/context.hpp>
#include <mllama/core/rounding.hpp>

/// Rotary position embedding in the half-rotation convention: element i of a head is paired with element i + head_dim/2.
/// Source:  Su et al. 2021 (arXiv:2104.09864); frequencies as transformers' `modeling_rope_utils` computes them, bit for bit

namespace mllama {

/// Parameters of the rotary embedding; `factor` = 1 means no scaling.
struct RopeScaling {
  double factor = 1;
  double low_freq_factor = 1;
  double high_freq_factor = 4;
  int original_max_position_embeddings = 8192;

  friend constexpr bool operator==(const RopeScaling&, const RopeScaling&) = default;
};

}  // namespace mllama

#include <mllama/kernels/reference/rope.hpp>
#include <mllama/kernels/simd/rope.hpp>

namespace mllama::kernels {

/// Inverse frequencies `theta^(−2i/head_dim)`, with Llama 3's scaling. Every step is rounded to float32, as PyTorch does it: a
/// power computed at once in double differs in a quarter of the entries.
/// Shapes:  out (head_dim / 2)
inline void rope_frequencies(double theta, const RopeScaling& scaling, std::span<float> out) {
  const float head_dim = static_cast<float>(2 * out.size());
  const float factor = static_cast<float>(scaling.factor);
  const float low = static_cast<float>(scaling.low_freq_factor);
  const float band = static_cast<float>(scaling.high_freq_factor - scaling.low_freq_factor);
  const float length = static_cast<float>(scaling.original_max_position_embeddings);
  for (std::size_t i = 0; i < out.size(); ++i) {
    const float exponent = rounded(static_cast<float>(2 * i) / head_dim);
    const float frequency = rounded(1.0F / static_cast<float>(std::pow(theta, double{exponent})));
    out[i] = frequency;
    if (scaling.factor == 1) continue;
    // The library divides a number by a tensor as the tensor's reciprocal times the number.
    const float wavelength = rounded(rounded(1.0F / frequency) * 6.28318530717958647693F);
    if (wavelength > static_cast<float>(scaling.original_max_position_embeddings / scaling.low_freq_factor)) {
      out[i] = rounded(frequency / factor);
    } else if (!(wavelength < static_cast<float>(scaling.original_max_position_embeddings / scaling.high_freq_factor))) {
      const float periods = rounded(rounded(1.0F / wavelength) * length);
      const float smooth = rounded(rounded(periods - low) / band);
      out[i] = rounded(rounded(rounded(1.0F - smooth) * frequency) / factor) + rounded(smooth * frequency);
    }
  }
}

/// Cosines and sines of the angles `float32(position) · frequency`; the product is rounded to float32 like the reference's.
/// Shapes:  positions (tokens);  frequencies (head_dim / 2);  out (tokens, head_dim): cosines, then sines
template <class Ctx>
void rope_angles(Ctx& ctx, std::span<const std::int32_t> positions, std::span<const float> frequencies, Matrix<float> out) {
  ctx.parallel(positions.size(), 16, [&](std::size_t begin, std::size_t end, unsigned) {
    for (std::size_t t = begin; t < end; ++t) {
      for (std::size_t i = 0; i < frequencies.size(); ++i) {
        const float angle = rounded(static_cast<float>(positions[t]) * frequencies[i]);
        out[t][i] = std::cos(angle);
        out[t][frequencies.size() + i] = std::sin(angle);
      }
    }
  });
}

/// Rotates every head of every row in place: `x[i], x[i+h] = x[i]·cos − x[i+h]·sin, x[i+h]·cos + x[i]·sin` with h = head_dim/2.
/// Shapes:  x (tokens, heads · head_dim);  angles (tokens, head_dim) of `rope_angles`
template <class Ctx>
void rope(Ctx& ctx, Matrix<const float> angles, Matrix<float> x) {
  const std::size_t head_dim = angles.width;
  ctx.parallel(x.rows, 4, [&](std::size_t begin, std::size_t end, unsigned) {
    for (std::size_t t = begin; t < end; ++t) {
      for (std::size_t h = 0; h < x.width; h += head_dim) rope_head(typename Ctx::backend{}, angles[t], head_dim, x[t] + h);
    }
  });
}

}  // namespace mllama::kernels
