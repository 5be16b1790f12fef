// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <filesystem>
#include <mllama/io/available_memory.hpp>
#include <string>

#include "temporary_folder.hpp"

using namespace mllama;

namespace {

constexpr std::string_view meminfo = "MemTotal:       24000000 kB\nMemFree:  5 kB\nMemAvailable:   8000 kB\nBuffers: 7 kB\n";

class System : public mllama_test::TemporaryFolder {
 public:
  void add(const std::string& file, std::string_view text) {
    std::filesystem::create_directories(std::filesystem::path(*this / file).parent_path());
    write(file, text);
  }
  [[nodiscard]] std::optional<std::size_t> available() const { return available_memory(path()); }
};

}  // namespace

TEST_CASE("this system says how much memory is available") {
  const auto here = available_memory();
  REQUIRE(here.has_value());
  CHECK(*here > 1'000'000);
}

TEST_CASE("available memory is the least that the system and control groups leave") {
  System system;
  CHECK_FALSE(system.available().has_value());
  system.add("proc/meminfo", meminfo);
  CHECK(system.available() == 8'192'000);
  system.add("proc/self/cgroup", "4:memory:/jobs/one\n0::/jobs/two\n");
  CHECK(system.available() == 8'192'000);
  SUBCASE("no limit, and one that is higher") {
    system.add("sys/fs/cgroup/jobs/two/memory.max", "max\n");
    system.add("sys/fs/cgroup/memory/jobs/one/memory.limit_in_bytes", "9223372036854771712\n");
    system.add("sys/fs/cgroup/memory/jobs/one/memory.stat", "cache 1\ntotal_rss 77\n");
    CHECK(system.available() == 8'192'000);
  }
  SUBCASE("version 2, where files that are cached do not count") {
    system.add("sys/fs/cgroup/jobs/two/memory.max", "6000000\n");
    system.add("sys/fs/cgroup/jobs/two/memory.stat", "file 5000000\nanon 1000000\nanon_thp 5\n");
    CHECK(system.available() == 5'000'000);
    system.add("sys/fs/cgroup/jobs/two/memory.stat", "anon 7000000\n");
    CHECK(system.available() == 0);
  }
  SUBCASE("a group above, and version 1") {
    system.add("sys/fs/cgroup/memory/jobs/memory.limit_in_bytes", "4000000\n");
    system.add("sys/fs/cgroup/memory/jobs/memory.stat", "rss 1\ntotal_rss 3000000\n");
    CHECK(system.available() == 1'000'000);
  }
  SUBCASE("a container") {
    system.add("sys/fs/cgroup/memory.max", "2000\n");
    system.add("sys/fs/cgroup/memory.stat", "anon 500\n");
    CHECK(system.available() == 1500);
  }
}
