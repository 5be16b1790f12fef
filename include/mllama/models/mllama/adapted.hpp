// SPDX-License-Identifier: MIT
#pragma once

#include <string_view>

#include <mllama/layers/lora.hpp>
#include <mllama/models/mllama/mllama.hpp>
#include <mllama/models/mllama/models.hpp>

/// Models that take adapters. All that differs from the plain ones is the formats in their configurations; a variant may decorate
/// some of them only: `struct MyText : Text11B { using cross_weights = LoRA<Stored>; };`.

namespace mllama {

namespace detail {
template <class Format>
struct Decorated {
  using type = LoRA<Format>;
};
template <class Format>
struct Decorated<LoRA<Format>> {
  using type = LoRA<Format>;
};
}  // namespace detail

/// `LoRA<Format>`, also of a format that is one already.
template <class Format>
using with_lora = typename detail::Decorated<Format>::type;

template <class C>
struct AdaptedVision : C {
  using weights = with_lora<typename C::weights>;
};

template <class C>
struct AdaptedText : C {
  using weights = with_lora<typename C::weights>;
  using cross_weights = with_lora<mllama::cross_weights<C>>;
  using cross_key_weights = with_lora<mllama::cross_key_weights<C>>;
  using head_weights = with_lora<typename C::head_weights>;
  using embedding_weights = with_lora<typename C::embedding_weights>;
};

/// A model with LoRA on every linear (self- and cross-attention, perceptrons, vision, projector, head) and on the token embedding.
/// Keys, print-out and numbers are those of `Model` as long as no adapter is added.
/// Costs:  a pointer per linear, and a comparison with null per product
template <class Model>
struct Adapted : Model::template with<AdaptedVision<typename Model::Vision>, AdaptedText<typename Model::Text>> {
  static constexpr Numerics numerics = Model::numerics;
  static constexpr std::string_view name = [] {
    if constexpr (requires { Model::name; }) {
      return std::string_view(Model::name);
    } else {
      return std::string_view();
    }
  }();
};

namespace detail {
template <class... Choices>
Models<Adapted<Choices>...> adapted(Models<Choices...>);
}  // namespace detail

/// The models of a list, each one that takes adapters.
template <class List>
using AdaptedModels = decltype(detail::adapted(List{}));

}  // namespace mllama
