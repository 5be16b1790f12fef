// SPDX-License-Identifier: MIT
// error: MixtureOfExperts<Format, N, Inner, ExpertCount, Top>: a row takes at most ExpertCount experts
// values: 3 <= 2
#include <mllama/layers/mixture.hpp>

#ifdef MLLAMA_WRONG
constexpr int experts = 2;
#else
constexpr int experts = 8;
#endif

using Mixture = mllama::MixtureOfExperts<mllama::NF4, 64, 128, experts, 3>;
static_assert(Mixture::width == 64);
