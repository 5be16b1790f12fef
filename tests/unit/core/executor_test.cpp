// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <atomic>
#include <cstddef>
#include <stdexcept>
#include <vector>

#include <mllama/core/context.hpp>

#include "executors.hpp"

using namespace mllama;
using mllama_test::NewThreads;
using mllama_test::OneByOne;

namespace {

/// Gives up, at times before it has begun, at times when all is done.
class Unreliable final : public Executor {
 public:
  [[nodiscard]] unsigned threads() const noexcept override { return 3; }
  void run(unsigned count, Task task, void* argument) override {
    if (failing == 1) throw std::runtime_error("no threads");
    for (unsigned index = 0; index < count; ++index) task(argument, index);
    if (failing == 2) throw std::runtime_error("late");
  }
  int failing = 0;
};

}  // namespace

TEST_CASE("a context runs its regions on an executor: every element once, and no worker's number twice at a time") {
  const auto check = [](Executor& executor) {
    Context ctx(executor);
    CHECK(ctx.threads().size() == executor.threads());
    for (std::size_t count = 0; count < 40; ++count) {
      std::vector<int> visits(count, 0), of_worker(executor.threads(), 0);
      std::atomic<int> wrong = 0;
      ctx.parallel(count, 3, [&](std::size_t begin, std::size_t end, unsigned worker) {
        if (worker >= of_worker.size() || begin >= end || end > count || begin % 3 != 0) {
          ++wrong;
          return;
        }
        ++of_worker[worker];
        for (std::size_t i = begin; i < end; ++i) ++visits[i];
      });
      CHECK(wrong == 0);
      CHECK(visits == std::vector<int>(count, 1));
      for (const int parts : of_worker) CHECK(parts <= 1);
    }
  };
  for (const unsigned threads : {1U, 2U, 5U}) {
    CAPTURE(threads);
    OneByOne one_by_one(threads);
    check(one_by_one);
    CHECK((one_by_one.runs > 0) == (threads > 1));  // one part needs no executor
    NewThreads new_threads(threads);
    check(new_threads);
  }
}

TEST_CASE("an executor without threads is one with the caller's") {
  OneByOne none(0);
  Context ctx(none);
  CHECK(ctx.threads().size() == 1);
  int runs = 0;
  ctx.parallel(10, 1, [&](std::size_t begin, std::size_t end, unsigned) { runs += begin == 0 && end == 10 ? 1 : 10; });
  CHECK(runs == 1);
}

TEST_CASE("exceptions of bodies and of executors arrive, and the next region begins without them") {
  Unreliable executor;
  Context ctx(executor);
  int ended = 0;
  const auto throwing = [](std::size_t, std::size_t, unsigned worker) {
    if (worker == 1) throw std::logic_error("body");
  };
  const auto counting = [&](std::size_t, std::size_t, unsigned) { ++ended; };
  CHECK_THROWS_WITH_AS(ctx.parallel(3, 1, throwing), "body", std::logic_error);
  executor.failing = 2;
  CHECK_THROWS_WITH_AS(ctx.parallel(3, 1, throwing), "late", std::runtime_error);
  executor.failing = 1;
  CHECK_THROWS_WITH_AS(ctx.parallel(3, 1, counting), "no threads", std::runtime_error);
  CHECK(ended == 0);
  executor.failing = 0;
  ctx.parallel(3, 1, counting);
  CHECK(ended == 3);
}
