// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <cstddef>
#include <deque>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <mllama/core/check.hpp>
#include <mllama/core/thread_pool.hpp>
#include <mllama/generate/adapter_file.hpp>
#include <mllama/layers/lora.hpp>

namespace mllama {

/// What adapters make of one parameter of their base: another tensor, or changes of it, or neither.
struct MergedParameter {
  const FileTensor* replacement = nullptr;
  std::vector<ScaledLowRank> changes = {};  ///< for `merge`; those with a bias change the bias beside the weight, too
};

/// Adapters that are to be merged into a checkpoint, tensor by tensor: a model without them. They are merged in the order in which
/// they were added, to what they compute unmerged.
///
///     AdapterMerge adapters;
///     adapters.add("my-adapter", 0.5);
///     const auto merged = adapters.of("layers.3.mlp.up_proj.weight", shape, weights, threads);   // for every parameter
///     merge(merged.changes, first_row, decoded_rows);
///     adapters.check_all_used();
///
/// It must outlive what it gave.
class AdapterMerge {
 public:
  /// Errors:  those of AdapterFile; input_error for a scale that is not finite.
  void add(const std::string& folder, double scale = 1) {
    check(std::isfinite(scale), [&] { return Fault{.field = "scale", .expected = "a finite number", .found = concat(scale)}; });
    adapters_.push_back({AdapterFile(folder), folder, scale});
  }

  [[nodiscard]] bool empty() const noexcept { return adapters_.empty(); }

  /// What becomes of the parameter of a canonical name, whose weights the base's are.
  /// Errors:  those of AdapterFile; config_error if a copy of the base in an adapter is none, if an adapter that replaces the
  ///          parameter is not to have scale 1, or if another one changes or replaces it, too.
  template <WeightFormat F>
  [[nodiscard]] MergedParameter of(std::string_view parameter, std::span<const std::size_t> shape, const Weights<F>& weights,
                                   ThreadPool& threads) {
    MergedParameter merged;
    const Adapter* other = nullptr;  // that changes or replaces it
    const bool is_matrix = shape.size() == 2 && parameter.ends_with(".weight");
    const std::string_view module = parameter.substr(0, parameter.rfind('.'));
    for (Adapter& adapter : adapters_) {
      const auto refuse_if = [&](bool wrong, auto&&... note) {
        check<config_error>(
            !wrong, [&] { return Fault{.file = adapter.file.path(), .field = std::string(parameter), .note = concat(note...)}; });
      };
      const FileTensor* const copy = adapter.file.copy(parameter, shape);
      refuse_if(copy != nullptr && !is_copy(*copy, weights, threads), "the adapter's copy of the base has other numbers");
      auto change = is_matrix ? adapter.file.linear(module, shape[0], shape[1]) : std::nullopt;
      if (is_matrix && !change) change = adapter.file.embedding(module, shape[0], shape[1]);
      const FileTensor* const tensor = adapter.file.replacement(parameter, shape);
      if (!change && tensor == nullptr) continue;

      refuse_if(merged.replacement != nullptr, other == nullptr ? "" : other->folder, " replaces it");
      refuse_if(tensor != nullptr && other != nullptr, other == nullptr ? "" : other->folder, " changes it");
      refuse_if(tensor != nullptr && change.has_value(), "the adapter both replaces and changes it");
      refuse_if(tensor != nullptr && adapter.scale != 1, "what replaces it has no scale but 1, and is to have ", adapter.scale);
      if (change) merged.changes.push_back({*change, adapter.scale});
      merged.replacement = tensor;
      other = &adapter;
    }
    return merged;
  }

  /// What their configurations have that was ignored although it may matter.
  [[nodiscard]] std::vector<std::string> notices() const {
    std::vector<std::string> all;
    for (const Adapter& adapter : adapters_) {
      all.insert(all.end(), adapter.file.config().notices.begin(), adapter.file.config().notices.end());
    }
    return all;
  }

  /// Errors:  shape_error that lists tensors that no parameter has asked for.
  void check_all_used() const {
    for (const Adapter& adapter : adapters_) adapter.file.check_all_used();
  }

 private:
  struct Adapter {
    AdapterFile file;
    std::string folder;
    double scale;
  };
  std::deque<Adapter> adapters_;  // what it gave refers to them
};

}  // namespace mllama
