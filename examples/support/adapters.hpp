// SPDX-License-Identifier: MIT
#pragma once

#include <charconv>
#include <cstddef>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include <mllama/core/check.hpp>
#include <mllama/generate/adapters.hpp>
#include <mllama/io/mapped_file.hpp>

namespace support {

/// What follows --adapter.
struct AdapterArgument {
  std::string folder;
  double scale = 1;
};

/// `DIR` or `DIR=SCALE`. A folder that is there may have an equals sign in its name.
/// Errors:  input_error
inline AdapterArgument adapter_argument(const std::string& text) {
  const std::size_t equals = text.rfind('=');
  if (equals == std::string::npos || mllama::detail::exists(text)) return {text};
  AdapterArgument argument{text.substr(0, equals)};
  const char* const end = text.data() + text.size();
  const auto [stop, status] = std::from_chars(text.data() + equals + 1, end, argument.scale);
  mllama::check(status == std::errc{} && stop == end,
                [&] { return mllama::Fault{.field = "--adapter", .expected = "DIR or DIR=SCALE", .found = text}; });
  return argument;
}

/// Adds adapters to what `load` or `load_weights` gave, in their order. Returns what there is to say about them, a line each.
template <class Loaded, class Ctx>
std::string add_adapters(mllama::Adapters& adapters, Loaded& loaded, const std::vector<std::string>& arguments, Ctx& ctx) {
  std::string notices;
  for (const std::string& text : arguments) {
    const AdapterArgument argument = adapter_argument(text);
    adapters.add(loaded, argument.folder, ctx, argument.scale);
    for (const std::string& notice : adapters.notices(adapters.size() - 1)) notices += notice + '\n';
  }
  return notices;
}

}  // namespace support
