// SPDX-License-Identifier: MIT
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <mllama/core/check.hpp>
#include <mllama/io/mapped_file.hpp>
#include <optional>
#include <string>
#include <string_view>

/// How much memory a program can still take.

namespace mllama {

namespace detail {

/// A file of the system, which says that it is empty until it is read. Nothing if it cannot be.
inline std::string system_text(const std::string& path) {
  constexpr std::size_t most = std::size_t{1} << 16U;
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  std::string text(file.number() < 0 ? 0 : most, '\0');
  std::size_t size = 0;
  while (size < text.size()) {
    const auto count = ::read(file.number(), text.data() + size, text.size() - size);
    if (count <= 0) break;
    size += static_cast<std::size_t>(count);
  }
  text.resize(size);
  return text;
}

/// The number behind a word at the begin of a line.
inline std::optional<std::size_t> number_after(std::string_view text, std::string_view word) {
  while (!text.empty()) {
    const std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(text.size(), line.size() + 1));
    if (!line.starts_with(word)) continue;
    const std::string_view rest = line.substr(std::min(line.size(), line.find_first_not_of(" \t", word.size())));
    std::size_t number = 0;
    if (std::from_chars(rest.data(), rest.data() + rest.size(), number).ec == std::errc{}) return number;
  }
  return std::nullopt;
}

/// What a control group still leaves: its limit less what it cannot give back. None if it has no limit.
inline std::optional<std::size_t> left_of_group(const std::string& folder, bool second_version) {
  const auto limit = number_after(system_text(folder + (second_version ? "/memory.max" : "/memory.limit_in_bytes")), "");
  const auto held = number_after(system_text(folder + "/memory.stat"), second_version ? "anon " : "total_rss ");
  if (!limit || !held) return std::nullopt;
  return *limit - std::min(*limit, *held);
}

}  // namespace detail

/// Bytes that the system, or the control group that the program is in, says to be available; pages of files that can be read again
/// count as such. None where no one says.
/// Source:  Linux: /proc/meminfo, and the control groups of both versions. `root` is before their paths, for tests.
[[nodiscard]] inline std::optional<std::size_t> available_memory(const std::string& root = {}) {
  std::optional<std::size_t> least;
  const auto consider = [&](std::optional<std::size_t> bytes) {
    if (bytes && (!least || *bytes < *least)) least = bytes;
  };
  if (const auto kilobytes = detail::number_after(detail::system_text(root + "/proc/meminfo"), "MemAvailable:")) {
    consider(*kilobytes * 1024);
  }
  const std::string groups = detail::system_text(root + "/proc/self/cgroup");
  const auto group = [&](std::string_view mark, const std::string& mount, bool second_version) {
    const std::size_t place = groups.find(mark);
    if (place == std::string::npos) return;
    const std::size_t begin = place + mark.size();
    std::string path = groups.substr(begin, groups.find('\n', begin) - begin);
    // Groups above count, too; a container sees its own at the mount point.
    for (;;) {
      consider(detail::left_of_group(mount + path, second_version));
      if (path.empty()) return;
      path.resize(path.rfind('/') == std::string::npos ? 0 : path.rfind('/'));
    }
  };
  group("0::", root + "/sys/fs/cgroup", true);
  group(":memory:", root + "/sys/fs/cgroup/memory", false);
  return least;
}

}  // namespace mllama
