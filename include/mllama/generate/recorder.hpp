// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include <mllama/core/context.hpp>

namespace mllama {

/// An observer that keeps what it is shown at the taps of these names: `Context<cpu<>, Recorder> ctx(0,
/// Recorder{{"hidden_states"}})`. Taps that are passed several times (by a picture each) are kept one after the other.
class Recorder {
 public:
  explicit Recorder(std::vector<std::string_view> names) : names_(std::move(names)) {}

  struct Record {
    std::string name;  ///< `hidden_states.3`: the tap's name, and its index if the tap has one
    std::vector<std::size_t> shape;
    std::vector<float> values;
  };

  template <class V>
  void operator()(Tap tap, const V& view) {
    if (std::find(names_.begin(), names_.end(), tap.name) == names_.end()) return;
    std::string name(tap.name);
    if (tap.index != Tap::no_index) name += concat(".", tap.index);
    auto found = std::find_if(records_.begin(), records_.end(), [&](const Record& record) { return record.name == name; });
    if (found == records_.end()) {
      records_.push_back({std::move(name), {0}, {}});
      found = std::prev(records_.end());
      for (std::size_t axis = 1; axis < V::rank; ++axis) found->shape.push_back(view.length(axis));
    }
    found->shape[0] += view.length(0);
    found->values.insert(found->values.end(), view.flat().begin(), view.flat().end());
  }

  [[nodiscard]] const std::vector<Record>& records() const noexcept { return records_; }
  void clear() noexcept { records_.clear(); }

 private:
  std::vector<std::string_view> names_;
  std::vector<Record> records_;
};

}  // namespace mllama
