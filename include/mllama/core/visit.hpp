// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <concepts>
#include <cstddef>
#include <string>
#include <string_view>
#include <type_traits>

#include <mllama/core/check.hpp>
#include <mllama/core/format.hpp>

/// One listing per struct. A module (a struct of named members) has
///
///     static constexpr void visit(auto& self, auto&& member) {
///       member("q_proj", self.q_proj);
///       ...
///     }
///
/// which names each child once, by its key in the checkpoint and in the order of the published module tree. Loading, counting and
/// printing are visitors; whether a child is a parameter, a module or a list is found out by overload.

namespace mllama {

/// A tensor of the checkpoint in its place in the model: `Shape` is its shape in the file. Refers to memory that a checkpoint (or
/// the user) owns.
template <WeightFormat Format, int... Shape>
struct Parameter {
  using format = Format;
  static constexpr std::array<std::size_t, sizeof...(Shape)> shape{static_cast<std::size_t>(Shape)...};
  static constexpr std::size_t size = (static_cast<std::size_t>(Shape) * ... * 1);

  Weights<Format> weights;

  /// The elements of a parameter that is float32 in memory.
  [[nodiscard]] constexpr const float* data() const noexcept
    requires std::same_as<Format, F32>
  {
    return weights.data;
  }
};

/// A vector or scalar that is float32 in memory whatever the file's type: norms, biases and gates are a few megabytes in all.
template <int N>
using Vector = Parameter<F32, N>;

namespace detail {
template <class T>
inline constexpr bool is_parameter = false;
template <class F, int... Shape>
inline constexpr bool is_parameter<Parameter<F, Shape...>> = true;

template <class T>
inline constexpr bool is_std_array = false;
template <class T, std::size_t N>
inline constexpr bool is_std_array<std::array<T, N>> = true;

struct IgnoreMember {
  constexpr void operator()(std::string_view, const auto&) const {}
};
}  // namespace detail

template <class T>
concept ParameterLeaf = detail::is_parameter<std::remove_cvref_t<T>>;

/// A struct with a listing. Structs without members of their own (activations) list nothing.
template <class T>
concept Module = requires(std::remove_cvref_t<T>& module) { std::remove_cvref_t<T>::visit(module, detail::IgnoreMember{}); };

/// Several modules under the keys 0, 1, …
template <class T>
concept ModuleList = detail::is_std_array<std::remove_cvref_t<T>>;

/// The key of a list element.
class IndexKey {
 public:
  constexpr explicit IndexKey(std::size_t index) noexcept {
    do {
      digits_[--begin_] = static_cast<char>('0' + index % 10);
      index /= 10;
    } while (index != 0 && begin_ != 0);
  }
  constexpr operator std::string_view() const noexcept {
    return {digits_ + begin_, most - begin_};
  }  // NOLINT(google-explicit-constructor)

 private:
  static constexpr std::size_t most = 8;
  char digits_[most]{};
  std::size_t begin_ = most;
};

/// Calls `member(key, child)` for each child of a module or list.
constexpr void for_each_child(auto& parent, auto&& member) {
  if constexpr (ModuleList<decltype(parent)>) {
    for (std::size_t i = 0; i < parent.size(); ++i) member(IndexKey(i), parent[i]);
  } else {
    std::remove_cvref_t<decltype(parent)>::visit(parent, member);
  }
}

/// Calls `use(key, parameter)` for every parameter below `parent`, with its full dotted key.
constexpr void for_each_parameter(auto& parent, auto&& use, const std::string& prefix = {}) {
  for_each_child(parent, [&](std::string_view key, auto& child) {
    std::string path = prefix;
    if (!path.empty()) path += '.';
    path += key;
    if constexpr (ParameterLeaf<decltype(child)>) {
      use(path, child);
    } else {
      for_each_parameter(child, use, path);
    }
  });
}

/// Whether all parameters below `module` have weights.
template <class M>
[[nodiscard]] bool loaded(const M& module) noexcept {
  bool all = true;
  for_each_child(module, [&](std::string_view, const auto& child) {
    if constexpr (ParameterLeaf<decltype(child)>) {
      all = all && child.weights.loaded();
    } else {
      all = all && loaded(child);
    }
  });
  return all;
}

/// Number of tensors and of elements of a model.
struct ParameterCount {
  std::size_t tensors = 0;
  std::size_t elements = 0;
};

/// Counted by the compiler from the listings alone: no model object, no file.
template <class Model>
[[nodiscard]] consteval ParameterCount count_parameters() {
  ParameterCount count;
  const auto walk = [&count](auto& self, auto& parent) -> void {
    for_each_child(parent, [&](std::string_view, auto& child) {
      if constexpr (ParameterLeaf<decltype(child)>) {
        ++count.tensors;
        count.elements += std::remove_cvref_t<decltype(child)>::size;
      } else {
        self(self, child);
      }
    });
  };
  const Model model{};
  walk(walk, model);
  return count;
}

}  // namespace mllama
