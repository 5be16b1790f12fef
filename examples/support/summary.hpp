// SPDX-License-Identifier: MIT
#pragma once

#include <sys/resource.h>

#include <array>
#include <cstddef>
#include <cstdio>
#include <string>
#include <string_view>

#include <mllama/core/check.hpp>
#include <mllama/generate/chat.hpp>

#include "stopwatch.hpp"

namespace support {

/// The most memory that the program has used so far, in bytes; what has been read of mapped files counts.
inline std::size_t peak_memory() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  return 1024 * static_cast<std::size_t>(usage.ru_maxrss);
}

/// Where the time went.
struct Summary {
  std::string model, arithmetic;
  std::size_t model_bytes = 0, memory = 0;
  unsigned threads = 0;
  double load = 0, total = 0;  ///< seconds
  mllama::ChatTimings chat;

  /// A line per stage: seconds, how much, how fast. Numbers stand below numbers.
  [[nodiscard]] std::string table() const {
    std::string text = line("load", load) + size(model_bytes) +
                       mllama::concat("   ", model, ", ", counted(threads, "thread"), ", ", arithmetic, '\n');
    if (chat.pictures != 0) text += line("encode", chat.encode) + amount(chat.pictures, "picture") + '\n';
    text += line("prompt", chat.prompt) + amount(chat.prompt_tokens, "token") + rate(chat.prompt_tokens, chat.prompt) + '\n';
    text += line("decode", chat.decode) + amount(chat.decoded_tokens, "token") + rate(chat.decoded_tokens, chat.decode) + '\n';
    return text + line("total", total) + size(memory) + "   peak memory\n";
  }

 private:
  template <class... Values>
  static std::string format(const char* pattern, Values... values) {
    std::array<char, 64> text{};
    std::snprintf(text.data(), text.size(), pattern, values...);
    return text.data();
  }
  static std::string counted(std::size_t number, std::string_view unit) {
    return mllama::concat(number, ' ', unit, number == 1 ? "" : "s");
  }

  static std::string line(const char* stage, double seconds) { return format("%-6s %9.3f s", stage, seconds); }
  static std::string amount(std::size_t number, std::string_view unit) {
    return format("%9zu ", number) + mllama::concat(unit, number == 1 ? "" : "s");
  }
  /// Comes after "tokens", or "token", which is a column less.
  static std::string rate(std::size_t tokens, double seconds) {
    return tokens == 0 || seconds <= 0 ? "" : format("%*.1f tokens/s", tokens == 1 ? 10 : 9, static_cast<double>(tokens) / seconds);
  }
  static std::string size(std::size_t bytes) {
    return bytes < 1'000'000'000 ? format("%9.1f MB", static_cast<double>(bytes) / 1e6)
                                 : format("%9.1f GB", static_cast<double>(bytes) / 1e9);
  }
};

}  // namespace support
