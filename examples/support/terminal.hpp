// SPDX-License-Identifier: MIT
#pragma once

#include <sys/ioctl.h>
#include <unistd.h>

#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

#include <mllama/core/check.hpp>
#include <mllama/io/mapped_file.hpp>

namespace support {

enum class Colours {
  none,
  palette,  ///< the 256 of xterm
  direct,   ///< 24 bits
};

/// Which colours a terminal shows, from the variables by which terminals say so. NO_COLOR: https://no-color.org
inline Colours colours_of(std::string_view term, std::string_view colorterm, std::string_view no_color) {
  if (!no_color.empty() || term.empty() || term == "dumb") return Colours::none;
  const auto has = [term](std::string_view part) { return term.find(part) != term.npos; };
  if (colorterm == "truecolor" || colorterm == "24bit" || has("direct") || has("kitty") || has("alacritty") || has("foot"))
    return Colours::direct;
  // A plain `xterm` is what containers and remote shells say whatever the terminal is.
  return has("256color") || has("xterm") || has("tmux") || has("screen") ? Colours::palette : Colours::none;
}

/// What stderr is connected to. Without a terminal, nothing here is ever used to draw.
struct Terminal {
  bool escapes = false;  ///< it is one, and the cursor can be moved
  Colours colours = Colours::none;
  std::size_t columns = 80, rows = 24;

  static Terminal of_stderr() {
    const auto variable = [](const char* name) {
      const char* const value = std::getenv(name);
      return std::string_view(value == nullptr ? "" : value);
    };
    Terminal terminal;
    terminal.escapes = ::isatty(STDERR_FILENO) != 0 && !variable("TERM").empty() && variable("TERM") != "dumb";
    if (terminal.escapes) terminal.colours = colours_of(variable("TERM"), variable("COLORTERM"), variable("NO_COLOR"));
    winsize size{};
    if (::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 && size.ws_row > 0) {
      terminal.columns = size.ws_col;
      terminal.rows = size.ws_row;
    }
    return terminal;
  }
};

inline void write_stderr(std::string_view text) { std::fwrite(text.data(), 1, text.size(), stderr); }

/// The answer's way out, piece by piece.
class Output {
 public:
  /// Errors:  file_error if nobody can take it, a full disk say.
  void write(std::string_view piece) {
    std::string text(piece);
    if (terminal_) {  // a model's words do not steer the terminal
      std::erase_if(text, [](char c) { return static_cast<unsigned char>(c) < 0x20 && c != '\n' && c != '\t'; });
    }
    const bool written = std::fwrite(text.data(), 1, text.size(), stdout) == text.size() && std::fflush(stdout) == 0;
    if (!written) throw mllama::file_error(mllama::detail::system_fault("standard output", "cannot write"));
  }

 private:
  bool terminal_ = ::isatty(STDOUT_FILENO) != 0;
};

}  // namespace support
