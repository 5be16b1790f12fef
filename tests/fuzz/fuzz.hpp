// SPDX-License-Identifier: MIT
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <mllama/core/check.hpp>
#include <mllama/io/mapped_file.hpp>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

/// What the targets have in common. A target is a source of `seeds` and of `LLVMFuzzerTestOneInput`, which gives its input to one
/// reader of untrusted bytes and uses what that makes of it.

/// libFuzzer's entry.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace mllama_fuzz {

/// What a search begins with: files of this repository, and what the target makes up.
[[nodiscard]] std::vector<std::string> seeds();

/// A file's bytes.
[[nodiscard]] inline std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("cannot open " + path);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// A file of this repository, by its path in it.
[[nodiscard]] inline std::string repository_file(std::string_view path) {
  return read_file(mllama::concat(MLLAMA_REPOSITORY, "/", path));
}

/// A rule of the library that no input may break; ends the program, which is a finding, if one does.
inline void require(bool holds, const char* rule) {
  if (holds) return;
  std::fprintf(stderr, "does not hold: %s\n", rule);
  std::abort();
}

/// Whether `read` takes its input. It may refuse it with an error of the library; another exception is a finding.
template <class Read>
bool takes(Read&& read) {
  try {
    read();
    return true;
  } catch (const mllama::error& refusal) {
    require(!std::string_view(refusal.what()).empty(), "an error has a message");
    return false;
  }
}

/// A file without a place on a disk, for readers that take a path. Its content may change whenever nobody has it mapped.
class MemoryFile {
 public:
  MemoryFile() : file_(::memfd_create("fuzz", MFD_CLOEXEC)), path_(mllama::concat("/proc/self/fd/", file_.number())) {}

  [[nodiscard]] const std::string& path() const { return path_; }

  const std::string& write(std::string_view bytes) {
    if (::ftruncate(file_.number(), static_cast<off_t>(bytes.size())) != 0 ||
        ::pwrite(file_.number(), bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size()))
      throw std::runtime_error("cannot write to memory");
    return path_;
  }

 private:
  mllama::detail::Descriptor file_;
  std::string path_;
};

/// An input of two parts with a NUL between them: JSON, which never has one, and what else a target needs.
struct TwoParts {
  std::string_view json, rest;

  explicit TwoParts(std::string_view input) : json(input.substr(0, input.find('\0'))) {
    if (json.size() < input.size()) rest = input.substr(json.size() + 1);
  }
};

/// Choices, a byte each; zeros when there are none left.
class Choices {
 public:
  explicit Choices(std::string_view bytes) : bytes_(bytes) {}

  /// One of 0 … count - 1, at most 256 of them.
  std::size_t below(std::size_t count) {
    if (bytes_.empty()) return 0;
    const auto byte = static_cast<unsigned char>(bytes_.front());
    bytes_.remove_prefix(1);
    return byte % count;
  }
  [[nodiscard]] std::string_view left() const { return bytes_; }

 private:
  std::string_view bytes_;
};

/// `input` as it is given to LLVMFuzzerTestOneInput.
[[nodiscard]] inline std::string_view text_of(const std::uint8_t* data, std::size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

}  // namespace mllama_fuzz
