// SPDX-License-Identifier: MIT
#pragma once

#include <charconv>
#include <cstddef>
#include <limits>
#include <string>
#include <string_view>
#include <system_error>

#include <mllama/core/check.hpp>
#include <mllama/io/available_memory.hpp>

namespace support {

inline constexpr std::size_t all_memory = std::numeric_limits<std::size_t>::max();

/// Bytes of memory that a model may take: a number, which may end in k, M, G or T (of 1000 each); what is available, if the text is
/// empty; and as much as it wants, if it is `any`.
/// Errors:  input_error for anything else; `option` is the user's word for it
inline std::size_t memory_limit(const std::string& text, std::string_view option = "--max-memory") {
  if (text.empty()) return mllama::available_memory().value_or(all_memory);
  if (text == "any") return all_memory;
  constexpr std::string_view suffixes = "kMGT";
  double number = 0;
  const char* const end = text.data() + text.size();
  auto [stop, status] = std::from_chars(text.data(), end, number, std::chars_format::fixed);
  if (status == std::errc{} && end - stop == 1 && suffixes.find(*stop) != suffixes.npos) {
    for (std::size_t power = 0; power <= suffixes.find(*stop); ++power) number *= 1000;
    ++stop;
  }
  mllama::check(status == std::errc{} && stop == end && 0 <= number && number < 1e18, [&] {
    return mllama::Fault{.field = std::string(option), .expected = "a number of bytes, as 8G or 500M, or any", .found = text};
  });
  return static_cast<std::size_t>(number);
}

}  // namespace support
