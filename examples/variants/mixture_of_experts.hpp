// SPDX-License-Identifier: MIT
#pragma once

#include <mllama/layers/mixture.hpp>
#include <mllama/models/mllama/mllama.hpp>

/// In the place of each perceptron a mixture of `Experts` of them, of which a row takes two: Mixtral's rule.
template <class Base, int Experts>
struct MixtureText : Base::Text {
  template <class C>
  using mlp = mllama::MixtureOfExperts<typename C::weights, C::hidden, C::inner, Experts, 2, typename C::activation>;
};
template <class Base, int Experts = 8>
struct MixtureOfExpertsMLP : mllama::Mllama<typename Base::Vision, MixtureText<Base, Experts>> {};
