// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <limits>
#include <mllama/io/output_folder.hpp>
#include <string>

#include "temporary_folder.hpp"

using namespace mllama;
using mllama_test::message;
using mllama_test::TemporaryFolder;

namespace {

/// What a child process returns: 0 if `action` returns true.
template <class Action>
int in_child(Action&& action) {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(action() ? 0 : 1);
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + status;
}

/// A process number that no process has.
pid_t ended_process() {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(0);
  ::waitpid(child, nullptr, 0);
  return child;
}

}  // namespace

TEST_CASE("a folder appears complete or not at all") {
  const TemporaryFolder place;
  place.write("elsewhere", "copied");
  for (const char* spelling : {"out", "out/", "out//"}) {
    CAPTURE(spelling);
    OutputFolder folder(place / spelling);
    CHECK(folder.path() == place / "out");
    auto& file = folder.create_file("pieces");
    folder.add_file("text", "some text");
    folder.copy_file(place / "elsewhere", "copy");
    const std::string_view ones = "111", twos = "222";
    file.write(3, std::as_bytes(std::span(twos)));
    file.write(0, std::as_bytes(std::span(ones)));
    CHECK_FALSE(detail::exists(place / "out"));
    folder.commit();
    CHECK(place.read("out/pieces") == "111222");
    CHECK(place.read("out/text") == "some text");
    CHECK(place.read("out/copy") == "copied");
    CHECK(detail::folder_content(place / "out")->size() == 3);
    std::filesystem::remove_all(place / "out");
    CHECK(place.files() == 1);
  }
  {
    OutputFolder folder(place / "out");
    folder.add_file("text", "never finished");
    CHECK(place.files() == 2);
  }
  CHECK(place.files() == 1);
  std::filesystem::create_directory(place / "out");
  OutputFolder folder(place / "out");
  folder.add_file("text", "in place of an empty folder");
  folder.commit();
  CHECK(place.read("out/text") == "in place of an empty folder");
  CHECK(place.files() == 2);
}

TEST_CASE("a name in the folder the program is in") {
  const TemporaryFolder place;
  CHECK(in_child([&] {
          std::filesystem::current_path(place.path());
          OutputFolder folder("out");
          folder.add_file("text", "here");
          folder.commit();
          return true;
        }) == 0);
  CHECK(place.read("out/text") == "here");
}

TEST_CASE("what is taken stays, and is named") {
  const TemporaryFolder place;
  const auto what = [&](const std::string& path) { return message<file_error>([&] { OutputFolder folder(path); }); };
  const std::string expected = ": expected the name of a new folder or of an empty one, found ";
  place.write("file", "x");
  CHECK(what(place / "file") == concat(place / "file", expected, "a file"));
  std::filesystem::create_directory(place / "full");
  place.write("full/inside", "x");
  CHECK(what(place / "full") == concat(place / "full", expected, "a folder with inside in it"));
  std::filesystem::create_directory(place / "empty");
  std::filesystem::create_directory_symlink(place / "empty", place / "link");
  CHECK(what(place / "link") == concat(place / "link", expected, "a symbolic link"));
  for (const char* name : {"", "/", ".", "..", "a/..", "./"}) CHECK(what(name).find(expected.substr(2)) != std::string::npos);
  CHECK(what(place / "no/such/folder") == place / "no/such/folder: cannot create: No such file or directory");
  CHECK(what(place / "file/out") == place / "file/out: cannot write: Not a directory");
  CHECK(place.files() == 4);
  CHECK(place.read("full/inside") == "x");

  // Taken while it was being written.
  CHECK(message<file_error>([&] {
          OutputFolder folder(place / "later");
          place.write("later", "x");
          folder.commit();
        }) == place / "later: cannot write: Not a directory");
  CHECK(place.read("later") == "x");
  CHECK(place.files() == 5);
}

TEST_CASE("names of files do not lead out of the folder, and are there once") {
  const TemporaryFolder place;
  OutputFolder folder(place / "out");
  for (const std::string_view name : {"", ".", "..", "../x", "a/b", ".unfinished"}) {
    CAPTURE(name);
    CHECK(message<file_error>([&] { folder.add_file(name, "x"); }).find("expected the name of a file in the folder") !=
          std::string::npos);
  }
  folder.add_file("a", "x");
  CHECK(message<file_error>([&] { folder.add_file("a", "y"); }) == place / "out/a: cannot write: File exists");
  CHECK(message<file_error>([&] { folder.copy_file(place / "none", "b"); }) ==
        place / "none: cannot open: No such file or directory");
}

TEST_CASE("more than the file system has free is refused with both figures") {
  const TemporaryFolder place;
  const OutputFolder folder(place / "out");
  folder.check_space(1);
  const std::string what = message<file_error>([&] { folder.check_space(std::numeric_limits<std::size_t>::max()); });
  CHECK(what.starts_with(place / "out: expected 18446744073709551615 bytes of free space, found "));
}

TEST_CASE("a failing write ends with the system's reason and leaves nothing") {
  const TemporaryFolder place;
  std::filesystem::create_directory(place / "here");
  CHECK(in_child([&] {
          const rlimit limit{.rlim_cur = 4096, .rlim_max = 4096};
          ::setrlimit(RLIMIT_FSIZE, &limit);  // with the signal at its default, which ends a program
          const std::string what = message<file_error>([&] {
            OutputFolder folder(place / "here/out");
            folder.add_file("small", std::string(4096, 'x'));
            folder.add_file("large", std::string(4097, 'x'));
          });
          return what == place / "here/out/large: cannot write: File too large";
        }) == 0);
  CHECK(detail::folder_content(place / "here")->empty());
}

TEST_CASE("rests of killed programs are removed, and nothing else is") {
  const TemporaryFolder place;
  const std::string path = place / "out";
  const auto rest_of = [&](pid_t process) { return concat(path, ".", process, ".part"); };

  // A program that dies while it writes.
  CHECK(in_child([&] {
          OutputFolder folder(path);
          folder.add_file("text", "half of a");
          ::kill(::getpid(), SIGKILL);
          return true;
        }) == 1000 + SIGKILL);
  CHECK(place.files() == 1);
  {
    const OutputFolder folder(path);
    CHECK(folder.rests().empty());
    CHECK(place.files() == 1);  // its own
  }
  CHECK(place.files() == 0);

  const pid_t gone = ended_process();
  const auto stays = [&](std::initializer_list<std::string> names) {
    const OutputFolder folder(path);
    CHECK(std::vector<std::string>(folder.rests().begin(), folder.rests().end()) == std::vector<std::string>(names));
  };
  std::filesystem::create_directory(rest_of(gone));  // killed before it had its mark
  stays({});
  CHECK(place.files() == 0);
  std::filesystem::create_directory(rest_of(gone));
  place.write(concat("out.", gone, ".part/user's"), "no mark of ours");
  stays({rest_of(gone)});
  CHECK(place.read(concat("out.", gone, ".part/user's")) == "no mark of ours");
  std::filesystem::remove_all(rest_of(gone));

  const pid_t alive = ::getppid();
  std::filesystem::create_directory(rest_of(alive));
  place.write(concat("out.", alive, ".part/.unfinished"), "");
  stays({rest_of(alive)});
  std::filesystem::remove_all(rest_of(alive));

  for (const char* other : {"out.part", "out..part", "out.x1.part", "out.-1.part", "out.0.part", "out.1.party", "in.1.part"}) {
    std::filesystem::create_directory(place / other);
  }
  stays({});
  CHECK(place.files() == 7);
}

TEST_CASE("two writers of one folder do not disturb each other") {
  const TemporaryFolder place;
  OutputFolder first(place / "out");
  first.add_file("text", "first");
  CHECK(message<file_error>([&] { OutputFolder second(place / "out"); }) == place / "out: cannot create: File exists");
  CHECK(in_child([&] {  // another process: a folder of its own, but the name is there once
          OutputFolder second(place / "out");
          second.add_file("text", "second");
          second.commit();
          return true;
        }) == 0);
  CHECK(message<file_error>([&] { first.commit(); }) == place / "out: cannot write: Directory not empty");
  CHECK(place.read("out/text") == "second");
}
