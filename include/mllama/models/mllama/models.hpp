// SPDX-License-Identifier: MIT
#pragma once

#include <mllama/models/mllama/mllama.hpp>

namespace mllama {

/// A list of model types, from which a program picks the one that a folder belongs to.
template <class... Choices>
struct Models {};

/// The released models: 11B Instruct, 11B base and 90B.
using ReleasedModels = Models<Llama32Vision11B, Llama32Vision11BBase, Llama32Vision90B>;

namespace detail {
template <class... As, class... Bs>
Models<As..., Bs...> join(Models<As...>, Models<Bs...>);
}  // namespace detail

/// The models of two lists, those of the first one first.
template <class A, class B>
using JoinModels = decltype(detail::join(A{}, B{}));

}  // namespace mllama
