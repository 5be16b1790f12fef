// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <limits>
#include <mutex>
#include <numeric>
#include <stdexcept>
#include <thread>
#include <vector>

#include <mllama/core/thread_pool.hpp>

using mllama::ThreadPool;

TEST_CASE("every element is visited once, in ranges of whole grains") {
  for (const unsigned threads : {1U, 2U, 3U, 8U}) {
    ThreadPool pool(threads);
    CHECK(pool.size() == threads);
    for (std::size_t count = 0; count < 70; ++count) {
      for (const std::size_t grain : {std::size_t{0}, std::size_t{1}, std::size_t{3}, std::size_t{16}, std::size_t{100}}) {
        std::vector<int> visits(count, 0);
        std::atomic<int> wrong = 0;
        pool.parallel_for(count, grain, [&](std::size_t begin, std::size_t end, unsigned worker) {
          wrong += worker >= threads || begin >= end || end > count || (grain > 1 && begin % grain != 0);
          for (std::size_t i = begin; i < end && i < count; ++i) ++visits[i];
        });
        CHECK(wrong == 0);
        CHECK(visits == std::vector<int>(count, 1));
      }
    }
  }
}

TEST_CASE("what a slow worker leaves is done by those that are ready, in whole grains") {
  for (const unsigned threads : {2U, 5U}) {
    ThreadPool pool(threads);
    constexpr std::size_t count = 16001, grain = 10;
    std::vector<std::atomic<int>> visits(count);
    std::atomic<std::size_t> done = 0, wrong = 0, of_slow = 0;
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    pool.parallel_for(count, grain, [&](std::size_t begin, std::size_t end, unsigned worker) {
      wrong += begin % grain != 0 || (end % grain != 0 && end != count);
      if (worker == 1) {  // waits in its first range for all that others can do
        const std::size_t others = count - (end - begin);
        while (done < others && std::chrono::steady_clock::now() < deadline) std::this_thread::yield();
        of_slow += end - begin;
      }
      for (std::size_t i = begin; i < end; ++i) ++visits[i];
      done += end - begin;
    });
    CHECK(wrong == 0);
    CHECK(std::ranges::all_of(visits, [](const std::atomic<int>& visit) { return visit == 1; }));
    CHECK(of_slow * threads <= count * 11 / 20);
  }
}

TEST_CASE("counts near the largest number") {
  ThreadPool pool(3);
  constexpr std::size_t huge = std::numeric_limits<std::size_t>::max();
  for (const std::size_t grain : {std::size_t{1}, std::size_t{7}, huge / 2, huge}) {
    std::mutex mutex;
    std::size_t sum = 0, last = 0;
    pool.parallel_for(huge, grain, [&](std::size_t begin, std::size_t end, unsigned) {
      const std::scoped_lock lock(mutex);
      sum += end - begin;
      last = end > last ? end : last;
    });
    CHECK(sum == huge);
    CHECK(last == huge);
  }
}

TEST_CASE("an exception of any worker arrives after all have ended, and the pool goes on") {
  ThreadPool pool(3);
  for (unsigned thrower = 0; thrower < 3; ++thrower) {
    std::atomic<int> ended = 0;
    CHECK_THROWS_WITH_AS(pool.parallel_for(3, 1,
                                           [&](std::size_t, std::size_t, unsigned worker) {
                                             if (worker == thrower) throw std::runtime_error("here");
                                             ++ended;
                                           }),
                         "here", std::runtime_error);
    CHECK(ended == 2);
    CHECK_THROWS_AS(pool.parallel_for(9, 1, [](std::size_t, std::size_t, unsigned) { throw std::logic_error("all"); }),
                    std::logic_error);
    pool.parallel_for(3, 1, [&](std::size_t, std::size_t, unsigned) { ++ended; });
    CHECK(ended == 5);
  }
}

TEST_CASE("thousands of regions one after the other see what those before them wrote") {
  ThreadPool pool(4);
  std::vector<std::size_t> data(64, 0);
  for (std::size_t round = 0; round < 5000; ++round) {
    pool.parallel_for(data.size(), 1 + round % 5, [&](std::size_t begin, std::size_t end, unsigned) {
      for (std::size_t i = begin; i < end; ++i) ++data[i];
    });
    if (round % 500 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(2));  // long enough for workers to fall asleep
  }
  CHECK(data == std::vector<std::size_t>(64, 5000));
}

TEST_CASE("more threads than cores, and regions of which most have no part") {
  const unsigned threads = 4 * std::max(2U, std::thread::hardware_concurrency());
  ThreadPool pool(threads);
  std::vector<std::size_t> data(threads, 0);
  std::size_t expected = 0;
  for (std::size_t round = 0; round < 2000; ++round) {
    const std::size_t parts = round % 3 == 0 ? 2 : round % 50 == 1 ? threads : 3;
    pool.parallel_for(parts, 1, [&](std::size_t begin, std::size_t, unsigned) { ++data[begin]; });
    expected += parts;
  }
  CHECK(std::accumulate(data.begin(), data.end(), std::size_t{0}) == expected);
  CHECK(data[0] == 2000);
}

TEST_CASE("a caller that sleeps until the last worker has ended") {
  ThreadPool pool(3);
  for (int round = 0; round < 5; ++round) {
    std::atomic<int> ended = 0;
    pool.parallel_for(3, 1, [&](std::size_t, std::size_t, unsigned worker) {
      std::this_thread::sleep_for(std::chrono::milliseconds(5 * worker));
      ++ended;
    });
    CHECK(ended == 3);
  }
}

TEST_CASE("pools that are made and ended at once") {
  for (int i = 0; i < 50; ++i) ThreadPool pool(3);
  CHECK(ThreadPool().size() >= 1);
}
