// SPDX-License-Identifier: MIT
#pragma once

#include <unistd.h>

#include <exception>
#include <iostream>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <mllama/core/check.hpp>
#include <mllama/io/image.hpp>
#include <mllama/vision/image.hpp>

#include "arguments.hpp"
#include "picture.hpp"
#include "summary.hpp"
#include "terminal.hpp"

namespace support {

/// What the user says at once: pictures, then a question about them and all that were shown before.
struct Turn {
  std::vector<mllama::Image> pictures;
  std::string question;
};

/// The user's side of a conversation: first what the arguments say, then, in a chat, what stdin says. Pictures are read, and drawn
/// where the terminal can.
class Turns {
 public:
  /// Errors:  file_error, format_error of a picture.
  Turns(const Arguments& arguments, const Terminal& terminal)
      : terminal_(terminal),
        draws_(terminal.colours != Colours::none && !arguments.no_picture && !arguments.quiet),
        chat_(arguments.chat),
        asks_(arguments.chat && !arguments.quiet && terminal.escapes && ::isatty(STDIN_FILENO) != 0) {
    for (const std::string& file : arguments.pictures) show(file);
    next_.question = arguments.prompt;
  }

  /// Nothing at the end of the conversation.
  /// Errors:  those of a picture, and input_error for an unknown command, if nobody is there who could try again.
  [[nodiscard]] std::optional<Turn> next() {
    while (next_.question.empty()) {
      if (!chat_) return std::nullopt;
      std::string line;
      if (!read(line) || line == "/quit") return std::nullopt;
      try {
        take(std::move(line));
      } catch (const std::exception& problem) {
        if (!asks_) throw;
        write_stderr(mllama::concat(problem.what(), '\n'));
      }
    }
    return std::exchange(next_, Turn{});
  }

  /// Seconds that the user took.
  [[nodiscard]] double waited() const noexcept { return waited_; }

 private:
  bool read(std::string& line) {
    if (asks_) write_stderr("> ");
    const Stopwatch thinking;
    const bool found = static_cast<bool>(std::getline(std::cin, line));
    waited_ += thinking.seconds();
    if (asks_ && !found) write_stderr("\n");
    if (line.ends_with('\r')) line.pop_back();
    return found;
  }

  void take(std::string line) {
    constexpr std::string_view image = "/image ";
    if (line.starts_with(image)) {
      show(line.substr(image.size()));
    } else if (line.starts_with('/')) {
      throw mllama::input_error(mllama::Fault{.field = "command", .expected = "/image FILE or /quit", .found = line});
    } else {
      next_.question = std::move(line);
    }
  }

  void show(const std::string& file) {
    next_.pictures.push_back(mllama::read_image(file));
    if (draws_) write_stderr(half_blocks(next_.pictures.back(), terminal_));
  }

  Terminal terminal_;
  bool draws_, chat_, asks_;
  Turn next_;
  double waited_ = 0;
};

}  // namespace support
