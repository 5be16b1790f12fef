// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <mllama/io/safetensors.hpp>
#include <string>
#include <string_view>

#include "fuzz.hpp"

namespace mllama_fuzz {

/// The file of a header, its tensors filled with the bytes of `fill` again and again. It is as long as the header says, so that a
/// search need not find two numbers that agree.
inline std::string safetensors_file(std::string_view header, std::string_view fill) {
  constexpr std::size_t most_data = 1U << 16U;
  const std::string exact(header);  // where a sanitizer sees its end
  std::size_t size = 0;
  takes([&] {
    for (const auto& entry : mllama::detail::SafetensorsHeader(mllama::parse_json(exact, "header")).entries)
      size = std::max(size, entry.end);
  });
  size = std::min(size, most_data);
  takes([&] { static_cast<void>(mllama::detail::read_safetensors_header(exact, size, "header")); });

  std::string file(8, '\0');
  const std::uint64_t length = header.size();
  std::memcpy(file.data(), &length, sizeof length);
  file += header;
  for (std::size_t i = 0; i < size; ++i) file += fill.empty() ? '\0' : fill[i % fill.size()];
  return file;
}

/// Header, NUL and fill of a file: the input that safetensors_file makes it of.
inline std::string safetensors_input(std::string_view file) {
  std::uint64_t length = 0;
  std::memcpy(&length, file.data(), sizeof length);
  return std::string(file.substr(8, length)) + '\0' + std::string(file.substr(8 + length));
}

}  // namespace mllama_fuzz
