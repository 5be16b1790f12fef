// SPDX-License-Identifier: MIT
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <mllama/core/check.hpp>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

namespace mllama {

namespace detail {

/// The fault of a system call that has just failed.
inline Fault system_fault(const std::string& file, std::string_view action, int code = errno) {
  return Fault{.file = file, .note = concat(action, ": ", std::system_category().message(code))};
}

/// A file descriptor that is closed with its scope.
class Descriptor {
 public:
  explicit Descriptor(int number) noexcept : number_(number) {}
  Descriptor(Descriptor&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(number_, other.number_);
    return *this;
  }
  ~Descriptor() { close(); }

  [[nodiscard]] int number() const noexcept { return number_; }
  /// False if the system reports an error that it had kept back until now (full disk, quota).
  bool close() noexcept { return number_ < 0 || ::close(std::exchange(number_, -1)) == 0; }

 private:
  int number_;
};

/// Whether something of any kind has this name.
inline bool exists(const std::string& path) {
  struct stat status {};
  return ::stat(path.c_str(), &status) == 0;
}

/// Whether a name from outside is that of something in a folder, and not a way out of it.
[[nodiscard]] constexpr bool is_plain_name(std::string_view name) noexcept {
  return !name.empty() && name != "." && name != ".." && name.find_first_of(std::string_view("/\\\0", 3)) == std::string_view::npos;
}

}  // namespace detail

/// A regular file's bytes in memory, read only, loaded by the system as they are touched. Moving it leaves the bytes in place.
/// Errors:  file_error if the file is missing, unreadable or not a regular file. A file that another process cuts short while it
///          is mapped ends the program with SIGBUS when the missing part is read: replace checkpoints by renaming.
class MappedFile {
 public:
  explicit MappedFile(const std::string& path) {
    // Without O_NONBLOCK, opening a pipe would wait for its writer.
    const detail::Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    if (file.number() < 0) throw file_error(detail::system_fault(path, "cannot open"));
    struct stat status {};
    if (::fstat(file.number(), &status) != 0) throw file_error(detail::system_fault(path, "cannot read"));
    if (!S_ISREG(status.st_mode)) {
      throw file_error(Fault{
          .file = path, .expected = "a regular file", .found = S_ISDIR(status.st_mode) ? "a folder" : "a pipe, socket or device"});
    }
    size_ = static_cast<std::size_t>(status.st_size);
    if (size_ == 0) return;  // nothing can be mapped, and nothing needs to be
    void* const address = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file.number(), 0);
    if (address == MAP_FAILED) throw file_error(detail::system_fault(path, "cannot map into memory"));
    data_ = static_cast<const std::byte*>(address);
  }

  MappedFile(MappedFile&& other) noexcept : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  MappedFile& operator=(MappedFile&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~MappedFile() {
    if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
  }

  /// Lets go of the memory that bytes of any mapped file take. It comes back from the file when they are read again.
  static void forget(std::span<const std::byte> bytes) noexcept {
    if (bytes.empty()) return;
    const std::size_t before =
        reinterpret_cast<std::uintptr_t>(bytes.data()) % static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
    ::madvise(const_cast<std::byte*>(bytes.data()) - before, before + bytes.size(), MADV_DONTNEED);
  }

  [[nodiscard]] std::span<const std::byte> bytes() const noexcept { return {data_, size_}; }
  [[nodiscard]] std::string_view text() const noexcept { return {reinterpret_cast<const char*>(data_), size_}; }

 private:
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace mllama
