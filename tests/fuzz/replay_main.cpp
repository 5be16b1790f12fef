// SPDX-License-Identifier: MIT
// replay [PATH…]: runs a target over its seeds and over files, and over all files of folders.
// replay --seeds FOLDER: writes the seeds, for a search to begin with.
#include <algorithm>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <string_view>

#include "fuzz.hpp"

namespace {

/// From memory that ends where the input ends, so that a sanitizer sees a read beyond it.
void run(std::string_view input) {
  const auto exact = std::make_unique<std::uint8_t[]>(input.size());
  std::copy(input.begin(), input.end(), exact.get());
  LLVMFuzzerTestOneInput(exact.get(), input.size());
}

void run_file(const std::filesystem::path& path) {
  std::printf("%s\n", path.c_str());
  run(mllama_fuzz::read_file(path));
}

void write_seeds(const std::filesystem::path& folder) {
  std::filesystem::create_directories(folder);
  std::size_t number = 0;
  for (const std::string& seed : mllama_fuzz::seeds()) std::ofstream(folder / std::to_string(number++), std::ios::binary) << seed;
}

}  // namespace

int main(int count, char** arguments) try {
  const std::vector<std::string> paths(arguments + 1, arguments + count);
  if (paths.size() == 2 && paths[0] == "--seeds") {
    write_seeds(paths[1]);
    return 0;
  }
  std::setvbuf(stdout, nullptr, _IOLBF, BUFSIZ);  // the last line names the file that ends the program
  std::size_t number = 0;
  for (const std::string& seed : mllama_fuzz::seeds()) {
    std::printf("seed %zu\n", number++);
    run(seed);
  }
  for (const std::string& path : paths) {
    if (std::filesystem::is_directory(path)) {
      for (const auto& entry : std::filesystem::recursive_directory_iterator(path))
        if (entry.is_regular_file()) run_file(entry.path());
    } else {
      run_file(path);
    }
  }
  return 0;
} catch (const std::exception& failure) {
  std::fprintf(stderr, "%s\n", failure.what());
  return 1;
}
