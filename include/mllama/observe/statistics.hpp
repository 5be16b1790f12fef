// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <iterator>
#include <limits>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <mllama/core/check.hpp>
#include <mllama/core/context.hpp>
#include <mllama/observe/recorder.hpp>

namespace mllama {

/// An observer that counts what passes each tap, or those of these names: the largest, the mean, and so on, over all rows and all
/// passes. Costs a pass over the elements, one thread, and no memory that grows with them. The names must outlive it.
class Statistics {
 public:
  /// Of all elements that passed one tap. What is not finite is only counted.
  struct OfTap {
    std::string name;  ///< see `name_of`
    std::uint64_t count = 0, zeros = 0, non_finite = 0;
    double least = std::numeric_limits<double>::infinity(), most = -std::numeric_limits<double>::infinity();
    double sum = 0, squares = 0;

    [[nodiscard]] std::uint64_t finite() const noexcept { return count - non_finite; }
    [[nodiscard]] double mean() const noexcept { return finite() == 0 ? 0 : sum / static_cast<double>(finite()); }
    [[nodiscard]] double root_mean_square() const noexcept {
      return finite() == 0 ? 0 : std::sqrt(squares / static_cast<double>(finite()));
    }
    /// Shares of all elements.
    [[nodiscard]] double zero_share() const noexcept { return share(zeros); }
    [[nodiscard]] double non_finite_share() const noexcept { return share(non_finite); }

   private:
    [[nodiscard]] double share(std::uint64_t of) const noexcept {
      return count == 0 ? 0 : static_cast<double>(of) / static_cast<double>(count);
    }
  };

  /// Without names: of everything but attention probabilities. One that is not `on` looks at nothing.
  explicit Statistics(std::vector<std::string_view> names = {}, bool on = true) : names_(std::move(names)), on_(on) {}

  static constexpr bool wants(std::string_view) { return true; }
  [[nodiscard]] bool wants_now(std::string_view name) const {
    return on_ && (names_.empty() ? !is_computed_to_be_shown(name) : std::find(names_.begin(), names_.end(), name) != names_.end());
  }

  template <class V>
  void operator()(const Tap& tap, const V& view) {
    OfTap& of = find(name_of(tap));
    for (const float value : view.flat()) {
      ++of.count;
      if (!std::isfinite(value)) {
        ++of.non_finite;
        continue;
      }
      const double number{value};
      of.zeros += value == 0 ? 1U : 0U;
      of.least = std::min(of.least, number);
      of.most = std::max(of.most, number);
      of.sum += number;
      of.squares += number * number;
    }
  }

  /// In the order in which the taps were passed first.
  [[nodiscard]] const std::vector<OfTap>& taps() const noexcept { return taps_; }
  void clear() noexcept { taps_.clear(); }

  /// A line for each tap, numbers below numbers.
  [[nodiscard]] std::string table() const {
    std::size_t width = 3;
    for (const OfTap& of : taps_) width = std::max(width, of.name.size());
    std::string text = line(width, "tap", "count", "min", "max", "mean", "rms", "zeros", "not finite");
    const auto number = [](double value) { return format("%.4g", value); };
    const auto percent = [](double share) { return share == 0 ? std::string("0") : format("%.3g %%", 100 * share); };
    for (const OfTap& of : taps_) {
      const bool any = of.finite() != 0;
      text += line(width, of.name, concat(of.count), any ? number(of.least) : "-", any ? number(of.most) : "-",
                   any ? number(of.mean()) : "-", any ? number(of.root_mean_square()) : "-", percent(of.zero_share()),
                   percent(of.non_finite_share()));
    }
    return text;
  }

 private:
  OfTap& find(std::string name) {
    const auto found = std::find_if(taps_.begin(), taps_.end(), [&](const OfTap& of) { return of.name == name; });
    if (found != taps_.end()) return *found;
    taps_.emplace_back().name = std::move(name);
    return taps_.back();
  }

  static std::string format(const char* pattern, double value) {
    std::array<char, 32> text{};
    std::snprintf(text.data(), text.size(), pattern, value);
    return text.data();
  }
  template <class... Columns>
  static std::string line(std::size_t width, const std::string& name, const Columns&... columns) {
    std::string text = name + std::string(width - name.size(), ' ');
    const auto add = [&](const std::string& column) {
      constexpr std::size_t narrowest = 11;
      text += std::string(column.size() < narrowest ? narrowest - column.size() : 1, ' ') + column;
    };
    (add(columns), ...);
    return text + '\n';
  }

  std::vector<std::string_view> names_;
  bool on_;
  std::vector<OfTap> taps_;
};

}  // namespace mllama
