// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <mllama/core/check.hpp>

#include "stopwatch.hpp"

/// What benchmarks found, and how it is printed.

namespace support {

/// One thing that was measured. What does not apply is absent.
struct Measurement {
  std::string bench = {}, policy = {};
  unsigned threads = 0;
  double value = 0;
  std::string unit = {};
  std::optional<double> share = {};   ///< of `limit`
  std::string limit = {};             ///< what stands in the way: `read`, or a kind of arithmetic
  std::optional<double> error = {};   ///< against float64, relative to the norm
  std::optional<double> spread = {};  ///< of the times, without the shortest and the longest tenth: (longest - shortest) / median
  double operations = 0, bytes = 0;   ///< a second, for plots: computed, and moved from and to memory at least; 0: not known
};

/// Median of the seconds that something takes, and their spread if it ran several times.
struct Timing {
  double seconds = 0;
  std::optional<double> spread = {};
};

/// Runs once, then at least three times, until `budget` seconds are over. What takes longer than five budgets runs once; its spread
/// is not known. Before each run, `prepare` is called, whose time does not count.
template <class Run, class Prepare>
[[nodiscard]] Timing time_of(double budget, Run&& run, Prepare&& prepare) {
  constexpr std::size_t least = 3, most = 1000;
  const auto one = [&] {
    prepare();
    const Stopwatch watch;
    run();
    return watch.seconds();
  };
  if (const double first = one(); budget > 0 && first > 5 * budget) return {first, std::nullopt};
  std::vector<double> seconds;
  for (const Stopwatch all; seconds.size() < least || (all.seconds() < budget && seconds.size() < most);) seconds.push_back(one());
  std::ranges::sort(seconds);
  const double median = seconds[seconds.size() / 2];
  const std::size_t tenth = seconds.size() / 10;  // a thread that others displaced once says nothing of a thousand runs
  return {median, median > 0 ? (seconds[seconds.size() - 1 - tenth] - seconds[tenth]) / median : 0};
}
template <class Run>
[[nodiscard]] Timing time_of(double budget, Run&& run) {
  return time_of(budget, std::forward<Run>(run), [] {});
}

enum class Style { md, csv, json };

namespace detail {

inline std::string digits(const char* pattern, double value) {
  std::array<char, 64> text{};
  std::snprintf(text.data(), text.size(), pattern, value);
  return text.data();
}
/// Three significant digits, none of them in an exponent where people read it.
inline std::string readable(double value) {
  const double magnitude = std::abs(value);
  return digits(magnitude >= 100 ? "%.0f" : magnitude >= 10 ? "%.1f" : magnitude >= 1 ? "%.2f" : "%.3f", value);
}
inline std::string percent(const std::optional<double>& value) { return value ? digits("%.0f %%", 100 * *value) : ""; }
inline std::string number(const std::optional<double>& value, std::string_view absent) {
  return value ? digits("%.6g", *value) : std::string(absent);
}

/// A string of JSON; all that is printed here is plain.
inline std::string quoted(std::string_view text) { return mllama::concat('"', text, '"'); }

/// The fields of a line; what md pads to the longest of its column.
inline std::array<std::string, 9> cells(const Measurement& m) {
  return {m.bench,
          m.policy,
          mllama::concat(m.threads),
          readable(m.value),
          m.unit,
          percent(m.share),
          m.limit,
          m.error ? digits("%.1e", *m.error) : "",
          m.spread ? mllama::concat("±", digits("%.0f %%", 50 * *m.spread)) : ""};
}
inline constexpr std::array<std::string_view, 9> headings{"bench", "policy", "threads", "value", "unit",
                                                          "share", "limit",  "error",   "spread"};

inline std::size_t columns_of(std::string_view text) {
  return static_cast<std::size_t>(
      std::ranges::count_if(text, [](char c) { return (static_cast<unsigned char>(c) & 0xc0U) != 0x80U; }));
}

}  // namespace detail

/// All measurements as a Markdown table, comma-separated values with a heading, or an array of JSON objects.
[[nodiscard]] inline std::string table_of(const std::vector<Measurement>& measurements, Style style) {
  std::string text;
  if (style == Style::json) {
    text = "[";
    for (const Measurement& m : measurements) {
      text += mllama::concat(text.size() == 1 ? "\n" : ",\n", R"( {"bench": )", detail::quoted(m.bench), R"(, "policy": )",
                             detail::quoted(m.policy), R"(, "threads": )", m.threads, R"(, "value": )", detail::number(m.value, ""),
                             R"(, "unit": )", detail::quoted(m.unit), R"(, "share": )", detail::number(m.share, "null"),
                             R"(, "limit": )", m.limit.empty() ? "null" : detail::quoted(m.limit), R"(, "error": )",
                             detail::number(m.error, "null"), R"(, "spread": )", detail::number(m.spread, "null"), "}");
    }
    return text + "\n]\n";
  }
  if (style == Style::csv) {
    text = "bench,policy,threads,value,unit,share,limit,error,spread\n";
    for (const Measurement& m : measurements) {
      text += mllama::concat(m.bench, ',', m.policy, ',', m.threads, ',', detail::number(m.value, ""), ',', m.unit, ',',
                             detail::number(m.share, ""), ',', m.limit, ',', detail::number(m.error, ""), ',',
                             detail::number(m.spread, ""), '\n');
    }
    return text;
  }
  std::array<std::size_t, 9> widths{};
  for (std::size_t c = 0; c < widths.size(); ++c) widths[c] = detail::headings[c].size();
  for (const Measurement& m : measurements) {
    const auto cells = detail::cells(m);
    for (std::size_t c = 0; c < cells.size(); ++c) widths[c] = std::max(widths[c], detail::columns_of(cells[c]));
  }
  const auto line = [&](const auto& cells) {
    for (std::size_t c = 0; c < widths.size(); ++c) {
      const std::string padding(widths[c] - detail::columns_of(cells[c]), ' ');
      const bool is_number = c == 2 || c == 3 || c == 5 || c == 7 || c == 8;
      text += mllama::concat("| ", is_number ? padding : "", cells[c], is_number ? "" : padding, ' ');
    }
    text += "|\n";
  };
  line(detail::headings);
  for (const std::size_t width : widths) text += '|' + std::string(width + 2, '-');
  text += "|\n";
  for (const Measurement& m : measurements) line(detail::cells(m));
  return text;
}

}  // namespace support
