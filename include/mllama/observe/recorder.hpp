// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <iterator>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <mllama/core/check.hpp>
#include <mllama/core/context.hpp>

namespace mllama {

/// `hidden_states.3`: a tap's name, and its index if it has one.
[[nodiscard]] inline std::string name_of(const Tap& tap) {
  return tap.index == Tap::no_index ? std::string(tap.name) : concat(tap.name, ".", tap.index);
}

namespace detail {
/// Which axis of a tensor counts rows: the first whose length is known at run time only; else the first.
template <class V>
inline constexpr std::size_t row_axis_of = 0;
template <class T, Axis... Axes>
inline constexpr std::size_t row_axis_of<View<T, Axes...>> = [] {
  constexpr std::array<bool, sizeof...(Axes)> run_time{RunTimeAxis<Axes>...};
  const auto* const found = std::find(run_time.begin(), run_time.end(), true);
  return found == run_time.end() ? std::size_t{0} : static_cast<std::size_t>(found - run_time.begin());
}();
}  // namespace detail

/// An observer that keeps what it is shown at the taps of these names, in all layers or, as `hidden_states.3`, in one:
/// `Context<cpu<>, Recorder> ctx(0, Recorder{{"hidden_states"}})`. The names must outlive it.
class Recorder {
 public:
  explicit Recorder(std::vector<std::string_view> names = {}) : names_(std::move(names)) {}

  static constexpr bool wants(std::string_view) { return true; }
  [[nodiscard]] bool wants_now(std::string_view name) const {
    return std::any_of(names_.begin(), names_.end(), [&](std::string_view wanted) {
      return wanted.starts_with(name) && (wanted.size() == name.size() || wanted[name.size()] == '.');
    });
  }

  struct Record {
    std::string name;  ///< see `name_of`
    std::vector<std::size_t> shape;
    std::vector<float> values;
  };

  template <class V>
  void operator()(const Tap& tap, const V& view) {
    std::string name = name_of(tap);
    const auto is_wanted = [&](std::string_view wanted) { return wanted == tap.name || wanted == name; };
    if (std::none_of(names_.begin(), names_.end(), is_wanted)) return;
    auto found = std::find_if(taps_.begin(), taps_.end(), [&](const Shown& shown) { return shown.name == name; });
    if (found == taps_.end()) {
      taps_.push_back({std::move(name), detail::row_axis_of<V>, {}});
      found = std::prev(taps_.end());
    }
    std::vector<std::size_t> shape(V::rank);
    for (std::size_t axis = 0; axis < V::rank; ++axis) shape[axis] = view.length(axis);
    if (found->row_axis != 0 || found->parts.empty() ||
        !std::equal(shape.begin() + 1, shape.end(), found->parts[0].shape.begin() + 1)) {
      found->parts.push_back({std::move(shape), {}});
    } else {
      found->parts.back().shape[0] += shape[0];
    }
    std::vector<float>& values = found->parts.back().values;
    values.insert(values.end(), view.flat().begin(), view.flat().end());
  }

  /// What was seen, in the order of the taps. Rows that passed a tap one after the other (a picture's each, a token's each) are joined
  /// along the axis that counts them; where the others differ, as the keys of a growing sequence, 0 is put behind the shorter ones.
  [[nodiscard]] std::vector<Record> records() const {
    std::vector<Record> records;
    records.reserve(taps_.size());
    for (const Shown& shown : taps_) records.push_back(join(shown));
    return records;
  }
  void clear() noexcept { taps_.clear(); }

 private:
  struct Part {
    std::vector<std::size_t> shape;
    std::vector<float> values;
  };
  struct Shown {
    std::string name;
    std::size_t row_axis = 0;
    std::vector<Part> parts;
  };

  static Record join(const Shown& shown) {
    Record record{shown.name, shown.parts[0].shape, {}};
    if (shown.parts.size() == 1) {
      record.values = shown.parts[0].values;
      return record;
    }
    std::vector<std::size_t>& shape = record.shape;
    shape[shown.row_axis] = 0;
    for (const Part& part : shown.parts) {
      for (std::size_t axis = 0; axis < shape.size(); ++axis) {
        shape[axis] = axis == shown.row_axis ? shape[axis] + part.shape[axis] : std::max(shape[axis], part.shape[axis]);
      }
    }
    std::size_t size = 1, first = 0;
    for (const std::size_t length : shape) size *= length;
    record.values.resize(size);
    for (const Part& part : shown.parts) {
      const std::size_t width = part.shape.back();
      std::vector<std::size_t> at(shape.size(), 0);  // of the first element of a run along the last axis
      for (std::size_t done = 0; done < part.values.size(); done += width) {
        std::size_t offset = 0;
        for (std::size_t axis = 0; axis < shape.size(); ++axis) {
          offset = offset * shape[axis] + at[axis] + (axis == shown.row_axis ? first : 0);
        }
        std::copy_n(part.values.begin() + static_cast<std::ptrdiff_t>(done), width,
                    record.values.begin() + static_cast<std::ptrdiff_t>(offset));
        for (std::size_t axis = shape.size() - 1; axis-- > 0;) {
          if (++at[axis] != part.shape[axis]) break;
          at[axis] = 0;
        }
      }
      first += part.shape[shown.row_axis];
    }
    return record;
  }

  std::vector<std::string_view> names_;
  std::vector<Shown> taps_;
};

}  // namespace mllama
