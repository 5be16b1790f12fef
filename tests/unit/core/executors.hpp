// SPDX-License-Identifier: MIT
#pragma once

#include <thread>
#include <vector>

#include <mllama/core/executor.hpp>

/// Executors as a program might have them.

namespace mllama_test {

/// All parts by the caller, the last one first.
class OneByOne final : public mllama::Executor {
 public:
  explicit OneByOne(unsigned threads) : threads_(threads) {}
  [[nodiscard]] unsigned threads() const noexcept override { return threads_; }
  void run(unsigned count, Task task, void* argument) override {
    for (unsigned index = count; index-- != 0;) task(argument, index);
    ++runs;
  }
  int runs = 0;

 private:
  unsigned threads_;
};

/// A new thread for each part.
class NewThreads final : public mllama::Executor {
 public:
  explicit NewThreads(unsigned threads) : threads_(threads) {}
  [[nodiscard]] unsigned threads() const noexcept override { return threads_; }
  void run(unsigned count, Task task, void* argument) override {
    std::vector<std::thread> all;
    for (unsigned index = 0; index < count; ++index) all.emplace_back(task, argument, index);
    for (std::thread& thread : all) thread.join();
  }

 private:
  unsigned threads_;
};

}  // namespace mllama_test
