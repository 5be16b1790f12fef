// SPDX-License-Identifier: MIT
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstddef>
#include <cstdio>
#include <mllama/core/check.hpp>
#include <mllama/io/mapped_file.hpp>
#include <span>
#include <string>
#include <utility>

namespace mllama {

namespace detail {

/// While it lives, a write of this thread beyond a limit on file sizes (`ulimit -f`) is an error and not the end of the program.
class FileSizeSignalBlocked {
 public:
  FileSizeSignalBlocked() noexcept {
    ::sigemptyset(&signal_);
    ::sigaddset(&signal_, SIGXFSZ);
    was_pending_ = pending();
    ::pthread_sigmask(SIG_BLOCK, &signal_, &before_);
  }
  FileSizeSignalBlocked(const FileSizeSignalBlocked&) = delete;
  FileSizeSignalBlocked& operator=(const FileSizeSignalBlocked&) = delete;
  ~FileSizeSignalBlocked() {
    int number = 0;
    if (!was_pending_ && pending()) ::sigwait(&signal_, &number);
    ::pthread_sigmask(SIG_SETMASK, &before_, nullptr);
  }

 private:
  static bool pending() noexcept {
    sigset_t signals;
    ::sigpending(&signals);
    return ::sigismember(&signals, SIGXFSZ) == 1;
  }

  sigset_t signal_{}, before_{};
  bool was_pending_ = false;
};

/// A new file, written at any place, from several threads at once if they like. Errors name it as `shown`.
/// Errors:  file_error, with the system's reason: a full disk, a quota, a limit on file sizes, a name that is taken, ...
class NewFile {
 public:
  /// In the folder that is open as `folder`, or AT_FDCWD.
  NewFile(int folder, const std::string& name, std::string shown)
      : shown_(std::move(shown)), file_(::openat(folder, name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666)) {
    require(file_.number() >= 0);
  }

  void write(std::size_t offset, std::span<const std::byte> bytes) const {
    const FileSizeSignalBlocked blocked;
    while (!bytes.empty()) {
      const auto written = ::pwrite(file_.number(), bytes.data(), bytes.size(), static_cast<off_t>(offset));
      if (written < 0 && errno == EINTR) continue;
      require(written >= 0);
      offset += static_cast<std::size_t>(written);
      bytes = bytes.subspan(static_cast<std::size_t>(written));
    }
  }
  /// Waits until the bytes are on the disk.
  void sync() const { require(::fsync(file_.number()) == 0); }
  void close() { require(file_.close()); }

  [[nodiscard]] int number() const noexcept { return file_.number(); }

 private:
  void require(bool succeeded) const {
    if (!succeeded) throw file_error(system_fault(shown_, "cannot write"));
  }

  std::string shown_;
  Descriptor file_;
};

}  // namespace detail

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
    file_.write(size_, bytes);
    size_ += bytes.size();
  }

  void commit() {
    file_.close();
    if (std::rename(temporary_.c_str(), path_.c_str()) != 0) throw file_error(detail::system_fault(path_, "cannot write"));
    committed_ = true;
  }

 private:
  static detail::NewFile create(const std::string& temporary, const std::string& path) {
    ::unlink(temporary.c_str());  // the number of a process comes round again: the rest of one that was killed
    return {AT_FDCWD, temporary, path};
  }

  std::string path_, temporary_;
  detail::NewFile file_;
  std::size_t size_ = 0;
  bool committed_ = false;
};

}  // namespace mllama
