// SPDX-License-Identifier: MIT
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <mllama/core/check.hpp>
#include <mllama/io/mapped_file.hpp>
#include <span>
#include <string>

namespace mllama {

/// A file that appears under its name complete or not at all: it is written beside its place and renamed by `commit()`. Without
/// `commit()`, as when an exception passes, nothing is left, and a file that was there before stays as it was.
/// Errors:  file_error, with the system's reason.
class OutputFile {
 public:
  explicit OutputFile(std::string path)
      : path_(std::move(path)), temporary_(concat(path_, ".", ::getpid(), ".part")), file_(create(temporary_, path_)) {}
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;
  ~OutputFile() {
    if (!committed_) ::unlink(temporary_.c_str());
  }

  void write(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      const auto written = ::write(file_.number(), bytes.data(), bytes.size());
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) throw file_error(detail::system_fault(path_, "cannot write"));
      bytes = bytes.subspan(static_cast<std::size_t>(written));
    }
  }

  void commit() {
    if (!file_.close()) throw file_error(detail::system_fault(path_, "cannot write"));
    if (std::rename(temporary_.c_str(), path_.c_str()) != 0) throw file_error(detail::system_fault(path_, "cannot write"));
    committed_ = true;
  }

 private:
  static detail::Descriptor create(const std::string& temporary, const std::string& path) {
    ::unlink(temporary.c_str());  // the number of a process comes round again: the rest of one that was killed
    detail::Descriptor file(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
    if (file.number() < 0) throw file_error(detail::system_fault(path, "cannot write"));
    return file;
  }

  std::string path_, temporary_;
  detail::Descriptor file_;
  bool committed_ = false;
};

}  // namespace mllama
