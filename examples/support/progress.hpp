// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <string>
#include <string_view>
#include <utility>

#include <mllama/core/check.hpp>
#include <mllama/core/context.hpp>

#include "terminal.hpp"

namespace support {

/// A bar on the terminal's last line, and the observer of the context that moves it: one step each time the model passes a tap.
/// It leaves no trace when it ends, be it by an exception.
class Progress {
 public:
  /// A terminal that cannot move its cursor, or none, shows nothing.
  explicit Progress(const Terminal& terminal) : columns_(terminal.escapes ? terminal.columns : 0) {}
  Progress(Progress&& other) noexcept
      : columns_(std::exchange(other.columns_, 0)),
        label_(std::move(other.label_)),
        tap_(other.tap_),
        total_(other.total_),
        done_(other.done_) {}
  Progress& operator=(Progress&&) = delete;
  ~Progress() { end(); }

  /// `total` = 0: nobody knows how long it takes.
  void begin(std::string label, std::string_view tap = {}, std::size_t total = 0) {
    end();
    label_ = std::move(label);
    tap_ = tap;
    total_ = total;
    done_ = 0;
    draw();
  }
  void end() {
    if (!label_.empty() && columns_ != 0) write_stderr("\r\x1b[K");
    label_.clear();
  }

  void operator()(mllama::Tap tap, const auto& /*what is there*/) {
    if (!label_.empty() && tap.name == tap_ && done_ != total_) reach(done_ + 1);
  }
  /// For work that passes no taps.
  void reach(std::size_t done) {
    done_ = done;
    draw();
  }

  /// One line that is shorter than the terminal is wide: a longer one would wrap, and could not be erased.
  static std::string bar(std::string_view label, std::size_t done, std::size_t total, std::size_t columns) {
    constexpr std::size_t widest = 40, narrowest = 8, percent = 6;
    if (columns <= label.size()) return std::string(label.substr(0, columns - 1));
    const std::size_t room = columns - 1 - label.size();
    if (total == 0 || room < 1 + narrowest + percent) return std::string(label);
    const std::size_t width = std::min(widest, room - 1 - percent), filled = width * done / total, share = 100 * done / total;
    std::string line = mllama::concat(label, ' ');
    for (std::size_t i = 0; i < width; ++i) line += i < filled ? "█" : "░";
    return mllama::concat(line, share < 10 ? "   " : share < 100 ? "  " : " ", share, " %");
  }

 private:
  void draw() const {
    if (columns_ == 0) return;
    const std::string line = bar(label_, done_, total_, columns_);
    write_stderr(mllama::concat('\r', line, "\x1b[K"));
  }

  std::size_t columns_;
  std::string label_;
  std::string_view tap_;
  std::size_t total_ = 0, done_ = 0;
};

}  // namespace support
