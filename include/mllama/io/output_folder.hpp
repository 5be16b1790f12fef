// SPDX-License-Identifier: MIT
#pragma once

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstddef>
#include <cstdio>
#include <memory>
#include <mllama/core/check.hpp>
#include <mllama/io/mapped_file.hpp>
#include <mllama/io/output_file.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

namespace mllama {

namespace detail {

/// Names in a folder, without `.` and `..`; nothing if it cannot be read.
[[nodiscard]] inline std::optional<std::vector<std::string>> folder_content(const std::string& path) {
  const std::unique_ptr<DIR, int (*)(DIR*)> folder(::opendir(path.c_str()), [](DIR* open) { return ::closedir(open); });
  if (!folder) return std::nullopt;
  std::vector<std::string> names;
  while (const dirent* const entry = ::readdir(folder.get())) {
    if (const std::string_view name = entry->d_name; name != "." && name != "..") names.emplace_back(name);
  }
  return names;
}

}  // namespace detail

/// A folder of files that appears under its name complete or not at all. It is written beside its place, as `PATH.<process>.part`,
/// brought to the disk and renamed by `commit()`. Without `commit()`, as when an exception passes, nothing is left. What killed
/// programs left behind is removed at the start, if no other program can be at work on it.
/// Errors:  file_error: `path` is taken by anything but an empty folder, or with the system's reason.
template <class = void>  // a template, so that bodies are compiled where they are used and not with every include
class BasicOutputFolder {
 public:
  explicit BasicOutputFolder(std::string path) : path_(without_slashes(std::move(path))) {
    check_place();
    remove_rests();
    create();
  }
  BasicOutputFolder(const BasicOutputFolder&) = delete;
  BasicOutputFolder& operator=(const BasicOutputFolder&) = delete;
  ~BasicOutputFolder() {
    if (!committed_) remove(folder_, temporary_);
  }

  [[nodiscard]] const std::string& path() const noexcept { return path_; }

  /// What earlier programs left beside the folder and this one did not dare to remove.
  [[nodiscard]] std::span<const std::string> rests() const noexcept { return rests_; }

  /// Errors:  file_error with both figures if the file system has fewer bytes free than these.
  void check_space(std::size_t bytes) const {
    struct statvfs status {};
    if (::fstatvfs(folder_.number(), &status) != 0) throw file_error(fault("cannot write"));
    const std::size_t free = static_cast<std::size_t>(status.f_bavail) * static_cast<std::size_t>(status.f_frsize);
    check<file_error>(bytes <= free, [&] {
      return Fault{.file = path_, .expected = concat(bytes, " bytes of free space"), .found = concat(free)};
    });
  }

  /// A new file of the folder. It is open until `commit()`, and stays in its place.
  detail::NewFile& create_file(std::string_view name) {
    const std::string shown = concat(path_, '/', name);
    check<file_error>(detail::is_plain_name(name) && name != marker, [&] {
      return Fault{.file = shown, .expected = "the name of a file in the folder", .found = std::string(name)};
    });
    return *files_.emplace_back(std::make_unique<detail::NewFile>(folder_.number(), std::string(name), shown));
  }
  void add_file(std::string_view name, std::span<const std::byte> bytes) { create_file(name).write(0, bytes); }
  void add_file(std::string_view name, std::string_view text) { add_file(name, std::as_bytes(std::span(text))); }
  void copy_file(const std::string& from, std::string_view name) { add_file(name, MappedFile(from).bytes()); }

  /// Gives the folder its name. Nothing may be written afterwards.
  void commit() {
    for (const auto& file : files_) {
      file->sync();
      file->close();
    }
    if (::unlinkat(folder_.number(), marker, 0) != 0 || !sync(folder_) || std::rename(temporary_.c_str(), path_.c_str()) != 0) {
      throw file_error(fault("cannot write"));
    }
    committed_ = true;
    // The folder is there, and what else can fail cannot be undone.
    static_cast<void>(sync(detail::Descriptor(::open(parent().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC))));
  }

 private:
  /// A file in every folder that is not complete. Its writer holds a lock on it.
  static constexpr const char* marker = ".unfinished";

  static std::string without_slashes(std::string path) {
    while (path.size() > 1 && path.back() == '/') path.pop_back();
    return path;
  }
  [[nodiscard]] std::size_t name_begins() const noexcept { return path_.rfind('/') + 1; }
  [[nodiscard]] std::string parent() const {
    return name_begins() == 0 ? "." : name_begins() == 1 ? "/" : path_.substr(0, name_begins() - 1);
  }
  [[nodiscard]] Fault fault(std::string_view action, int code = errno) const { return detail::system_fault(path_, action, code); }

  static bool sync(const detail::Descriptor& folder) noexcept {
    return ::fsync(folder.number()) == 0 || errno == EINVAL;  // file systems that cannot do this to folders do not need it
  }

  void check_place() const {
    const auto fail = [&](std::string_view found) {
      throw file_error(
          Fault{.file = path_, .expected = "the name of a new folder or of an empty one", .found = std::string(found)});
    };
    if (!detail::is_plain_name(std::string_view(path_).substr(name_begins()))) fail(concat('"', path_, '"'));
    struct stat status {};
    if (::lstat(path_.c_str(), &status) != 0) {
      if (errno != ENOENT) throw file_error(fault("cannot write"));
      return;
    }
    if (!S_ISDIR(status.st_mode)) fail(S_ISLNK(status.st_mode) ? "a symbolic link" : "a file");
    const auto content = detail::folder_content(path_);
    if (!content) throw file_error(fault("cannot read"));
    if (!content->empty()) fail(concat("a folder with ", content->front(), " in it"));
  }

  void create() {
    temporary_ = concat(path_, ".", ::getpid(), ".part");
    if (::mkdir(temporary_.c_str(), 0777) != 0) throw file_error(fault("cannot create"));
    folder_ = detail::Descriptor(::open(temporary_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    marker_ = detail::Descriptor(::openat(folder_.number(), marker, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
    if (marker_.number() < 0) {
      const int code = errno;
      remove(folder_, temporary_);
      throw file_error(fault("cannot create", code));
    }
    ::flock(marker_.number(), LOCK_EX | LOCK_NB);
  }

  /// The folders beside it whose names say that a program was writing this one.
  void remove_rests() {
    const std::string begin = path_.substr(name_begins()) + '.';
    for (const std::string& name : detail::folder_content(parent()).value_or(std::vector<std::string>{})) {
      constexpr std::string_view end_of_rest = ".part";
      if (name.size() < begin.size() + end_of_rest.size() || !name.starts_with(begin) || !name.ends_with(end_of_rest)) continue;
      std::string_view number = name;
      number.remove_prefix(begin.size());
      number.remove_suffix(end_of_rest.size());
      pid_t process = 0;
      const auto [end, status] = std::from_chars(number.data(), number.data() + number.size(), process);
      if (status != std::errc{} || end != number.data() + number.size() || process <= 0) continue;
      const std::string rest = path_.substr(0, name_begins()) + name;
      if (!remove_rest(rest, process)) rests_.push_back(rest);
    }
  }

  /// Removes a folder only if it has our mark, if nobody holds the lock on that (which also tells processes apart that cannot see
  /// each other, in containers), and if the process is gone (on file systems without locks).
  static bool remove_rest(const std::string& rest, pid_t process) {
    if (process != ::getpid() && !(::kill(process, 0) != 0 && errno == ESRCH)) return false;
    const detail::Descriptor folder(::open(rest.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (folder.number() < 0) return false;
    const detail::Descriptor mark(::openat(folder.number(), marker, O_RDWR | O_NOFOLLOW | O_CLOEXEC));
    if (mark.number() < 0) return ::rmdir(rest.c_str()) == 0;  // killed before it had one, hence empty
    return ::flock(mark.number(), LOCK_EX | LOCK_NB) == 0 && remove(folder, rest);
  }

  /// Removes a folder and the files in it, the marker last. There are no folders in it, or it stays.
  static bool remove(const detail::Descriptor& folder, const std::string& path) {
    bool all = true;
    for (const std::string& name : detail::folder_content(path).value_or(std::vector<std::string>{})) {
      if (name != marker) all = ::unlinkat(folder.number(), name.c_str(), 0) == 0 && all;
    }
    if (!all) return false;
    ::unlinkat(folder.number(), marker, 0);
    return ::rmdir(path.c_str()) == 0;
  }

  std::string path_, temporary_;
  detail::Descriptor folder_{-1}, marker_{-1};
  std::vector<std::unique_ptr<detail::NewFile>> files_;
  std::vector<std::string> rests_;
  bool committed_ = false;
};
using OutputFolder = BasicOutputFolder<>;
#if defined(MLLAMA_ELSEWHERE)
extern template class BasicOutputFolder<>;
#endif

}  // namespace mllama
