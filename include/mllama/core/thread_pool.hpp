// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

namespace mllama {

/// Fork-join of one function over index ranges. The calling thread is worker 0.
/// A decode step has about two hundred parallel regions of microseconds each, so workers spin for a while before they sleep.
/// Not for use by two threads at once.
class ThreadPool {
 public:
  /// `threads` = 0: as many as the machine runs at once.
  explicit ThreadPool(unsigned threads = 0) {
    if (threads == 0) threads = std::max(1U, std::thread::hardware_concurrency());
    workers_.reserve(threads - 1);
    try {
      for (unsigned index = 1; index < threads; ++index) workers_.emplace_back([this, index] { work(index); });
    } catch (...) {  // the system has no more threads: those that run must end before their handles go
      stop();
      throw;
    }
  }
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;
  ~ThreadPool() { stop(); }

  [[nodiscard]] unsigned size() const noexcept { return static_cast<unsigned>(workers_.size()) + 1; }

  /// Calls `body(begin, end, worker)` for ranges that cover [0, count); each range but the last has a multiple of `grain`
  /// elements. Which worker gets which range never changes what is computed: bodies write disjoint outputs.
  /// Errors:  the first exception of a body, after all have ended.
  template <class Body>
  void parallel_for(std::size_t count, std::size_t grain, Body&& body) {
    if (count == 0) return;
    grain = std::max<std::size_t>(grain, 1);
    const std::size_t grains = count / grain + (count % grain != 0 ? 1 : 0);
    const std::size_t parts = std::min<std::size_t>(size(), grains);
    if (parts == 1) {
      body(std::size_t{0}, count, 0U);
      return;
    }
    struct Call {
      std::remove_reference_t<Body>& body;
      std::size_t count, grain, grains, parts;
    } call{body, count, grain, grains, parts};
    task_ = {&call, [](void* context, unsigned worker) {
               Call& c = *static_cast<Call*>(context);
               if (worker >= c.parts) return;
               // The first ranges get one grain more; no product here is larger than count.
               const auto bound = [&c](std::size_t part) {
                 return (c.grains / c.parts * part + std::min(part, c.grains % c.parts)) * c.grain;
               };
               const std::size_t begin = bound(worker), end = worker + 1 == c.parts ? c.count : bound(worker + 1);
               if (begin < end) c.body(begin, end, worker);
             }};
    failed_.clear(std::memory_order_relaxed);
    pending_.store(static_cast<unsigned>(workers_.size()), std::memory_order_relaxed);
    publish();
    run(0);
    for (unsigned spins = 0; pending_.load(std::memory_order_acquire) != 0;) pause(spins);
    if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
  }

 private:
  struct Task {
    void* context = nullptr;
    void (*call)(void*, unsigned) = nullptr;
  };

  /// Spins cost nothing while the machine is ours; after them the thread yields, so that an oversubscribed machine gets on.
  static constexpr unsigned spins_before_yield = 2000;
  static constexpr unsigned spins_before_sleep = 4000;

  static void pause(unsigned& spins) {
    if (++spins < spins_before_yield) {
#if defined(__x86_64__)
      __builtin_ia32_pause();  // _mm_pause() without the headers of all vector instructions
#endif
    } else {
      std::this_thread::yield();
    }
  }

  void stop() noexcept {
    stopping_.store(true, std::memory_order_relaxed);
    publish();
    for (std::thread& worker : workers_) worker.join();
  }

  void publish() noexcept {
    generation_.fetch_add(1, std::memory_order_release);
    generation_.notify_all();
  }

  void run(unsigned worker) noexcept {
    try {
      task_.call(task_.context, worker);
    } catch (...) {
      if (!failed_.test_and_set(std::memory_order_relaxed)) failure_ = std::current_exception();  // read after all have ended
    }
  }

  void work(unsigned worker) {
    for (std::uint32_t seen = 0;;) {
      unsigned spins = 0;
      std::uint32_t now = generation_.load(std::memory_order_acquire);
      while (now == seen) {
        if (spins < spins_before_sleep) {
          pause(spins);
        } else {
          generation_.wait(seen, std::memory_order_acquire);
        }
        now = generation_.load(std::memory_order_acquire);
      }
      seen = now;
      if (stopping_.load(std::memory_order_relaxed)) return;
      run(worker);
      pending_.fetch_sub(1, std::memory_order_release);
    }
  }

  std::vector<std::thread> workers_;
  std::atomic<std::uint32_t> generation_{0};
  std::atomic<unsigned> pending_{0};
  std::atomic<bool> stopping_{false};
  Task task_;
  std::atomic_flag failed_;
  std::exception_ptr failure_;
};

}  // namespace mllama
