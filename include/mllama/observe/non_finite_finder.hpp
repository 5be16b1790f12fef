// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <cstddef>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <mllama/core/check.hpp>
#include <mllama/core/context.hpp>
#include <mllama/observe/recorder.hpp>

namespace mllama {

/// An observer that finds where numbers stop being finite: the first tap that shows a NaN or an infinity, hence the first layer.
class NonFiniteFinder {
 public:
  struct Found {
    std::string name;                ///< of the tap: see `name_of`
    std::vector<std::size_t> place;  ///< of the first such element, along each axis
    float value = 0;
    std::size_t count = 0;  ///< in all that the tap showed at once

    /// `hidden_states.3: nan at [5, 17], the first of 24`
    [[nodiscard]] std::string text() const {
      std::string at;
      for (const std::size_t index : place) at += concat(at.empty() ? "" : ", ", index);
      const std::string_view what = std::isnan(value) ? "nan" : value < 0 ? "-inf" : "inf";
      return concat(name, ": ", what, " at [", at, "], the first of ", count);
    }
  };

  template <class V>
  void operator()(const Tap& tap, const V& view) {
    if (found_) return;
    const auto elements = view.flat();
    std::size_t count = 0, first = 0;
    for (std::size_t i = elements.size(); i-- > 0;) {
      if (std::isfinite(elements[i])) continue;
      ++count;
      first = i;
    }
    if (count == 0) return;
    found_ = Found{name_of(tap), std::vector<std::size_t>(V::rank), elements[first], count};
    std::size_t rest = first;
    for (std::size_t axis = V::rank; axis-- > 0;) {
      found_->place[axis] = rest % view.length(axis);
      rest /= view.length(axis);
    }
    found_->place[detail::row_axis_of<V>] += tap.first;
  }

  /// Nothing as long as all was finite.
  [[nodiscard]] const std::optional<Found>& first() const noexcept { return found_; }
  void clear() noexcept { found_.reset(); }

 private:
  std::optional<Found> found_;
};

}  // namespace mllama
