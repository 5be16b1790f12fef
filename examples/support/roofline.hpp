// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

#include <mllama/core/check.hpp>

#include "measurements.hpp"
#include "probes.hpp"

/// Measurements under the roofs of the machine: operations a second over operations per byte, both logarithmic.
/// Source:  Williams, Waterman, Patterson 2009, Roofline

namespace support {

namespace detail {

/// Text and marks of a drawing; colours are classes, which have other values on a dark background.
class Drawing {
 public:
  static constexpr double width = 1000, height = 640;

  void line(double x1, double y1, double x2, double y2, std::string_view kind) {
    svg_ += mllama::concat("<line x1=\"", at(x1), "\" y1=\"", at(y1), "\" x2=\"", at(x2), "\" y2=\"", at(y2), "\" class=\"", kind,
                           "\"/>\n");
  }
  void dot(double x, double y, double radius, std::string_view kind) {
    svg_ += mllama::concat("<circle cx=\"", at(x), "\" cy=\"", at(y), "\" r=\"", at(radius), "\" class=\"", kind, "\"/>\n");
  }
  /// `anchor`: start, middle or end. `turn`: degrees.
  void text(double x, double y, std::string_view words, std::string_view anchor, std::string_view kind = "text", double turn = 0) {
    const std::string turned = turn == 0 ? "" : mllama::concat(" transform=\"rotate(", at(turn), ' ', at(x), ' ', at(y), ")\"");
    svg_ += mllama::concat("<text x=\"", at(x), "\" y=\"", at(y), "\" text-anchor=\"", anchor, "\" class=\"", kind, "\"", turned,
                           ">", words, "</text>\n");
  }
  [[nodiscard]] std::string finished() const {
    return mllama::concat("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 ", at(width), ' ', at(height), "\" width=\"",
                          at(width), "\" height=\"", at(height), "\" font-family=\"sans-serif\" font-size=\"13\">\n", style,
                          "<rect width=\"100%\" height=\"100%\" class=\"ground\"/>\n", svg_, "</svg>\n");
  }

 private:
  static constexpr std::string_view style = R"(<style>
.ground{fill:#fff} .text{fill:#222} .grid{stroke:#ddd} .roof{stroke:#555;stroke-width:2} .lead{stroke:#888;stroke-width:.7}
.small{fill:#222;font-size:11px} .title{fill:#222;font-size:16px} .f32{fill:#0072b2} .int16{fill:#d55e00} .int8{fill:#008f68}
.bf16{fill:#b0478a}
@media (prefers-color-scheme: dark) {
.ground{fill:#16181c} .text,.small,.title{fill:#e6e6e6} .grid{stroke:#34373d} .roof{stroke:#a8a8a8} .lead{stroke:#888}
.f32{fill:#56b4e9} .int16{fill:#f0883e} .int8{fill:#2fd3a0} .bf16{fill:#e08ac0}
}
</style>
)";
  static std::string at(double value) { return digits("%.4g", value); }

  std::string svg_;
};

/// A logarithmic axis of whole decades.
struct LogAxis {
  double first, last;  ///< powers of ten
  double from, to;     ///< where they lie in the drawing

  [[nodiscard]] double at(double value) const { return from + (std::log10(value) - first) / (last - first) * (to - from); }
};

inline std::string_view first_word(std::string_view text) { return text.substr(0, text.find(' ')); }

}  // namespace detail

/// An SVG. Each line of the table that has operations and bytes is a dot in the colour of its policy, with the number that the key
/// gives to its name; dots of the same line that lie together share it.
[[nodiscard]] inline std::string roofline_of(const std::vector<Measurement>& measurements, const Limits& limits,
                                             std::string_view machine) {
  using detail::digits;
  struct Roof {
    std::string_view name;
    double operations;
  };
  std::vector<Roof> roofs;
  for (const Roof& roof : {Roof{"f32", limits.floats},
                           {"int16", limits.words},
                           {"bf16", limits.bfloats == limits.floats ? 0 : limits.bfloats},
                           {"int8", limits.bytes}}) {
    if (roof.operations > 0) roofs.push_back(roof);
  }
  std::vector<Measurement> points;
  for (const Measurement& m : measurements) {
    if (m.operations > 0 && m.bytes > 0) points.push_back(m);
  }
  double lowest = 1e9, highest = 1e9, least = 0.1, most = 10;
  for (const Roof& roof : roofs) highest = std::max(highest, roof.operations);
  for (const Measurement& m : points) {
    lowest = std::min(lowest, m.operations);
    highest = std::max(highest, m.operations);
    least = std::min(least, m.operations / m.bytes);
    most = std::max(most, m.operations / m.bytes);
  }
  constexpr double left = 80, right = 730, top = 60, bottom = 580;
  const detail::LogAxis x{std::floor(std::log10(least)), std::ceil(std::log10(most)), left, right};
  const detail::LogAxis y{std::floor(std::log10(lowest)), std::ceil(std::log10(1.2 * highest)), bottom, top};

  detail::Drawing svg;
  svg.text(left, 30, mllama::concat("Roofline: ", machine), "start", "title");
  for (double decade = x.first; decade <= x.last; ++decade) {
    const double value = std::pow(10, decade);
    svg.line(x.at(value), top, x.at(value), bottom, "grid");
    svg.text(x.at(value), bottom + 20, digits("%g", value), "middle");
  }
  for (double decade = y.first; decade <= y.last; ++decade) {
    const double value = std::pow(10, decade);
    svg.line(left, y.at(value), right, y.at(value), "grid");
    svg.text(left - 8, y.at(value) + 4, digits("%g", value / 1e9), "end");
  }
  svg.text((left + right) / 2, bottom + 45, "operations per byte", "middle");
  svg.text(28, (top + bottom) / 2, "billions of operations a second", "middle", "text", -90);

  // The slope of memory ends at the highest roof; each roof begins at the slope.
  double summit = highest;
  if (!roofs.empty()) summit = std::ranges::max(roofs, {}, &Roof::operations).operations;
  const double slope_begin = std::max(std::pow(10, x.first), std::pow(10, y.first) / limits.read);
  const double slope_end = std::min(std::pow(10, x.last), summit / limits.read);
  svg.line(x.at(slope_begin), y.at(slope_begin * limits.read), x.at(slope_end), y.at(slope_end * limits.read), "roof");
  const double tilt =
      std::atan2(y.at(slope_end * limits.read) - y.at(slope_begin * limits.read), x.at(slope_end) - x.at(slope_begin));
  const double middle = slope_begin * std::pow(slope_end / slope_begin, 0.2);
  svg.text(x.at(middle) - 8, y.at(middle * limits.read) - 8, mllama::concat("read ", digits("%.1f", limits.read / 1e9), " GB/s"),
           "middle", "text", tilt * 180 / 3.14159265358979323846);
  double aside = right;  // names of roofs that lie near each other must not meet
  for (const Roof& roof : roofs) {
    svg.line(x.at(std::max(slope_begin, roof.operations / limits.read)), y.at(roof.operations), right, y.at(roof.operations),
             "roof");
    svg.text(aside, y.at(roof.operations) - 5, mllama::concat(roof.name, ' ', digits("%.0f", roof.operations / 1e9)), "end");
    aside -= 75;
  }

  // A number goes to the nearest free place around its dot.
  struct Place {
    double x, y;
  };
  std::vector<Place> taken;
  for (const Measurement& m : points) taken.push_back({x.at(m.operations / m.bytes), y.at(m.operations)});
  const std::vector<Place> dots = taken;
  std::vector<std::string> names;
  for (std::size_t i = 0; i < points.size(); ++i) {
    const std::string_view policy = detail::first_word(points[i].policy);
    const auto known = std::ranges::find(names, points[i].bench);
    const auto number = static_cast<std::size_t>(known - names.begin()) + 1;
    if (known == names.end()) names.push_back(points[i].bench);
    svg.dot(dots[i].x, dots[i].y, 4, policy);
    const auto beside = [&](std::size_t other) {  // a dot of the same line that has its number already
      return points[other].bench == points[i].bench && std::hypot(dots[other].x - dots[i].x, dots[other].y - dots[i].y) < 16;
    };
    bool numbered = false;
    for (std::size_t other = 0; other < i; ++other) numbered = numbered || beside(other);
    if (numbered) continue;
    Place best = dots[i];
    for (int ring = 0; ring < 6 * 12; ++ring) {
      const double angle = (ring % 12) * 0.5235987755982988, radius = 13 + 9 * (ring / 12);
      best = {dots[i].x + radius * std::cos(angle), dots[i].y - radius * std::sin(angle)};
      const auto overlaps = [&](const Place& other) { return std::abs(other.x - best.x) < 16 && std::abs(other.y - best.y) < 11; };
      const bool inside = best.x > left + 8 && best.x < right - 8 && best.y > top + 8 && best.y < bottom - 8;
      if (inside && std::ranges::none_of(taken, overlaps)) break;
    }
    taken.push_back(best);
    svg.line(dots[i].x, dots[i].y, best.x, best.y, "lead");
    svg.text(best.x, best.y + 4, mllama::concat(number), "middle", "small");
  }

  double key = top + 4;
  std::vector<std::string_view> policies;
  for (const Measurement& m : points) {
    const std::string_view policy = detail::first_word(m.policy);
    if (std::ranges::find(policies, policy) != policies.end()) continue;
    policies.push_back(policy);
    svg.dot(right + 30, key, 5, policy);
    svg.text(right + 42, key + 4, policy, "start");
    key += 20;
  }
  key += 8;
  const double step = names.empty() ? 0 : std::min(17.0, (detail::Drawing::height - 20 - key) / static_cast<double>(names.size()));
  for (std::size_t n = 0; n < names.size(); ++n, key += step) {
    svg.text(right + 42, key + 4, mllama::concat(n + 1), "end", "small");
    svg.text(right + 50, key + 4, names[n], "start", "small");
  }
  return svg.finished();
}

}  // namespace support
