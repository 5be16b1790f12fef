// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include <mllama/core/check.hpp>
#include <mllama/core/visit.hpp>

/// The module tree of a model as text, in the form in which PyTorch prints modules.

namespace mllama {

/// What the tree shows beside the names.
enum class TreeDetail {
  modules,  ///< PyTorch's print-out, nothing else
  sizes,    ///< parameters and bytes of each module, and totals
};

namespace detail {

struct ModuleSize {
  std::size_t tensors = 0, parameters = 0, bytes = 0;
};

/// Bytes that a tensor takes in the file: of what is loaded, else of the nominal format (4-bit blocks with nested scales).
template <class P>
std::size_t stored_bytes(const P& parameter) {
  if (parameter.weights.loaded()) return parameter.weights.bytes();
  using Format = nominal_format<typename P::format>;
  if constexpr (BlockFormat<Format>) {
    constexpr std::size_t blocks = (P::size + 63) / 64;
    return (P::size + 1) / 2 + blocks + 4 * ((blocks + 255) / 256) + 4 * 256;
  } else if constexpr (RowFormat<Format>) {
    return P::size + 4 * P::shape[0];
  } else {
    return P::size * 2;  // vectors are widened when they are loaded; checkpoints hold them in bfloat16
  }
}

template <class M>
ModuleSize size_of(const M& module) {
  ModuleSize size;
  for_each_child(module, [&](std::string_view, const auto& child) {
    if constexpr (ParameterLeaf<decltype(child)>) {
      size.tensors += 1;
      size.parameters += std::remove_cvref_t<decltype(child)>::size;
      size.bytes += stored_bytes(child);
    } else {
      const ModuleSize inner = size_of(child);
      size.tensors += inner.tensors;
      size.parameters += inner.parameters;
      size.bytes += inner.bytes;
    }
  });
  return size;
}

/// 1234567 as "1 234 567".
inline std::string grouped(std::size_t number) {
  std::string digits = concat(number);
  for (std::size_t i = digits.size(); i > 3;) digits.insert(i -= 3, 1, ' ');
  return digits;
}

struct TreePrinter {
  TreeDetail wanted;

  template <class M>
  [[nodiscard]] std::string sizes(const M& module) const {
    if (wanted == TreeDetail::modules) return {};
    const ModuleSize size = size_of(module);
    if (size.parameters == 0) return {};
    return concat("  # ", grouped(size.parameters), " parameters, ", grouped(size.bytes), " bytes");
  }

  /// The text of a module; lines after the first are indented by their depth below it.
  template <class M>
  [[nodiscard]] std::string text(const M& module) const {
    if constexpr (requires { M::repr(module); }) {
      return M::repr(module) + sizes(module);
    } else {
      std::vector<std::pair<std::string, std::string>> children;
      for_each_child(module, [&](std::string_view key, const auto& child) {
        if constexpr (!ParameterLeaf<decltype(child)>) children.emplace_back(std::string(key), text(child));
      });
      if constexpr (ModuleList<M>) {
        return list("ModuleList", children, sizes(module));
      } else if (M::class_name == std::string_view("ModuleList")) {
        return list(M::class_name, children, sizes(module));
      } else {
        std::string out = concat(M::class_name, "(", sizes(module), "\n");
        for (const auto& [key, child] : children) append_child(out, concat("(", key, "): "), child);
        return out + ")";
      }
    }
  }

 private:
  static void append_child(std::string& out, const std::string& label, const std::string& child) {
    out += "  ";
    out += label;
    for (const char c : child) {
      out += c;
      if (c == '\n') out += "  ";
    }
    out += '\n';
  }

  /// Runs of children that print alike become one entry with their range.
  static std::string list(std::string_view name, const std::vector<std::pair<std::string, std::string>>& children,
                          const std::string& sizes) {
    std::string out = concat(name, "(", sizes, "\n");
    for (std::size_t i = 0; i < children.size();) {
      std::size_t end = i + 1;
      while (end < children.size() && children[end].second == children[i].second) ++end;
      const std::size_t count = end - i;
      const std::string label = count == 1 ? concat("(", children[i].first, "): ")
                                           : concat("(", children[i].first, "-", children[end - 1].first, "): ", count, " x ");
      append_child(out, label, children[i].second);
      i = end;
    }
    return out + ")";
  }
};

}  // namespace detail

/// The module tree of a model, as PyTorch prints it. Linears are printed in the format that was loaded, or else in the nominal one.
/// With `TreeDetail::sizes`, each line also says how many parameters and bytes the module has (of a repeated one: each), and a last
/// line the totals.
template <class Model>
[[nodiscard]] std::string describe(const Model& model, TreeDetail wanted = TreeDetail::modules) {
  std::string out = detail::TreePrinter{wanted}.text(model) + "\n";
  if (wanted == TreeDetail::sizes) {
    const detail::ModuleSize size = detail::size_of(model);
    out += concat("total: ", size.tensors, " tensors, ", detail::grouped(size.parameters), " parameters, ",
                  detail::grouped(size.bytes), " bytes\n");
  }
  return out;
}

/// The same for a type, without a file.
template <class Model>
[[nodiscard]] std::string describe(TreeDetail wanted = TreeDetail::modules) {
  static constexpr Model model{};
  return describe(model, wanted);
}

}  // namespace mllama
