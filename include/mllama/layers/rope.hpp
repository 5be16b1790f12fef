// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include <mllama/core/context.hpp>
#include <mllama/kernels/rope.hpp>

namespace mllama {

/// Rotary position embedding; has no parameters. The angles of a batch are computed once and shared by its layers.
/// Shapes:  positions (tokens) -> (tokens, HeadDim): cosines, then sines.   Units: radians.
/// Source:  Su et al. 2021 (arXiv:2104.09864), scaled as in Llama 3.1
template <int HeadDim>
struct RotaryEmbedding {
  static_assert(HeadDim % 2 == 0, "RotaryEmbedding<HeadDim>: a head has an even number of elements");
  double theta = 500000;
  RopeScaling scaling{};

  static constexpr void visit(auto&, auto&&) {}
  static std::string repr(const auto&) { return "MllamaRotaryEmbedding()"; }

  template <class Ctx>
  [[nodiscard]] Tensor<float, Tokens, Dim<HeadDim>> operator()(std::span<const std::int32_t> positions, Ctx& ctx) const {
    std::array<float, static_cast<std::size_t>(HeadDim / 2)> frequencies;
    kernels::rope_frequencies(theta, scaling, frequencies);
    auto angles = ctx.template tensor<float, Tokens, Dim<HeadDim>>({positions.size()});
    kernels::rope_angles(ctx, positions, frequencies, angles);
    return angles;
  }
};

}  // namespace mllama
