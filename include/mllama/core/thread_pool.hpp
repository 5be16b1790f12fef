// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include <mllama/core/executor.hpp>

namespace mllama {

/// Fork-join of one function over index ranges. The calling thread is worker 0.
/// A decode step has about two hundred parallel regions of microseconds each, so threads that wait spin for a while. Then they sleep:
/// where others want the same cores, a thread that waits makes room for the one that it waits for.
/// Not for use by two threads at once.
class ThreadPool {
 public:
  /// `threads` = 0: as many as the machine runs at once.
  explicit ThreadPool(unsigned threads = 0) {
    if (threads == 0) threads = std::max(1U, std::thread::hardware_concurrency());
    size_ = threads;
    left_ = std::make_unique<Left[]>(threads);
    workers_.reserve(threads - 1);
    try {
      for (unsigned index = 1; index < threads; ++index) workers_.emplace_back([this, index] { work(index); });
    } catch (...) {  // the system has no more threads: those that run must end before their handles go
      stop();
      throw;
    }
  }
  /// No threads of its own: regions run on the executor, which must outlive the pool.
  explicit ThreadPool(Executor& executor)
      : executor_(&executor), size_(std::max(1U, executor.threads())), left_(std::make_unique<Left[]>(size_)) {}
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;
  ~ThreadPool() { stop(); }

  [[nodiscard]] unsigned size() const noexcept { return size_; }

  /// Calls `body(begin, end, worker)` for ranges that cover [0, count); each range but the last has a multiple of `grain`
  /// elements. Which worker gets which range never changes what is computed: bodies write disjoint outputs. Each has a part of the same
  /// size, but leaves the second half of it, in pieces, to those that are ready sooner: cores are not equally fast, or not all ours.
  /// `around(worker, run)` calls `run()`, which does what a worker does.
  /// Errors:  the first exception of a body, after all have ended.
  template <class Body, class Around>
  void parallel_for(std::size_t count, std::size_t grain, Body&& body, Around&& around) {
    if (count == 0) return;
    grain = std::max<std::size_t>(grain, 1);
    const std::size_t grains = count / grain + (count % grain != 0 ? 1 : 0);
    const std::size_t parts = std::min<std::size_t>(size(), grains);
    if (parts == 1) {
      around(0U, [&] { body(std::size_t{0}, count, 0U); });
      return;
    }
    struct Call {
      std::remove_reference_t<Body>& body;
      std::remove_reference_t<Around>& around;
      Left* left;
      std::size_t count, grain, grains, parts;

      /// Piece `piece` of a part: the first, which is its worker's, has at least half of it. No product here is larger than count.
      void run(std::size_t part, std::size_t piece, unsigned worker) {
        const std::size_t each = grains / parts, more = grains % parts;  // the first parts get one grain more
        const std::size_t first = each * part + std::min(part, more), length = each + (part < more ? 1 : 0);
        const std::size_t share = length / (2 * pieces), rest = length - pieces * share;
        const std::size_t begin = piece == 0 ? first : first + rest + (piece - 1) * share;
        const std::size_t end = piece == 0 ? first + rest : begin + share;
        if (begin < end) body(begin * grain, end == grains ? count : end * grain, worker);
      }
      void run_all(unsigned worker) {
        run(worker, 0, worker);
        for (std::size_t i = 0; i < parts; ++i) {
          const std::size_t part = (worker + i) % parts;
          for (std::size_t piece = 0; (piece = left[part].next.fetch_add(1, std::memory_order_relaxed)) <= pieces;) {
            run(part, piece, worker);
          }
        }
      }
    } call{body, around, left_.get(), count, grain, grains, parts};
    for (std::size_t part = 0; part < parts; ++part) left_[part].next.store(1, std::memory_order_relaxed);
    task_ = {&call, [](void* context, unsigned worker) {
               Call& c = *static_cast<Call*>(context);
               c.around(worker, [&] { c.run_all(worker); });
             }};
    failed_.clear(std::memory_order_relaxed);
    if (executor_ == nullptr) {
      run_on_workers(static_cast<unsigned>(parts));
    } else {
      failure_ = nullptr;  // of a region that the executor gave up
      executor_->run(
          static_cast<unsigned>(parts), [](void* pool, unsigned index) { static_cast<ThreadPool*>(pool)->run(index); }, this);
    }
    if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
  }
  template <class Body>
  void parallel_for(std::size_t count, std::size_t grain, Body&& body) {
    parallel_for(count, grain, std::forward<Body>(body), [](unsigned, auto&& run) { run(); });
  }

 private:
  /// Pieces of a part that anyone may do, and the next of them that nobody does yet, from 1 on.
  static constexpr std::size_t pieces = 4;
  struct alignas(64) Left {
    std::atomic<std::size_t> next{1};
  };

  struct Task {
    void* context = nullptr;
    void (*call)(void*, unsigned) = nullptr;
  };

  /// The region that workers last heard of, and how many of them, the caller included, have a part in it.
  struct Region {
    std::uint32_t generation, parts;
  };
  static constexpr std::uint64_t packed(Region region) { return std::uint64_t{region.generation} << 32U | region.parts; }
  static constexpr Region unpacked(std::uint64_t region) {
    return {static_cast<std::uint32_t>(region >> 32U), static_cast<std::uint32_t>(region)};
  }

  /// Spins, of 10 to 50 ns each, cost nothing while the machine is ours. On an oversubscribed one the thread that is waited for may
  /// need this core. If it waits for this very core, yielding helps; for another one, only sleeping brings it here.
  static constexpr unsigned most_spins = 2000, few_spins = 20, most_yields = 10;
  /// Of so many waits, one spins for long, whatever those before it were like.
  static constexpr unsigned waits_of_a_probe = 32;

  /// What a thread has learnt about waiting.
  struct Patience {
    unsigned spins = most_spins, waits = 0;
  };
  class Wait {
   public:
    explicit Wait(Patience& patience)
        : patience_(patience), limit_(++patience.waits % waits_of_a_probe == 0 ? most_spins : patience.spins) {}
    Wait(const Wait&) = delete;
    Wait& operator=(const Wait&) = delete;
    /// If what was waited for was there after a yield or two, both threads share a core.
    ~Wait() {
      if (yields_ != 0 && yields_ <= 2) {
        patience_.spins = few_spins;
      } else if (yields_ == 0 && spins_ != 0 && limit_ == most_spins) {
        patience_.spins = most_spins;
      }
    }

    /// False if it is time to sleep.
    bool pause() {
      if (spins_ < limit_) {
        ++spins_;
#if defined(__x86_64__)
        __builtin_ia32_pause();  // _mm_pause() without the headers of all vector instructions
#endif
        return true;
      }
      if (yields_ == most_yields) return false;
      ++yields_;
      std::this_thread::yield();
      return true;
    }

   private:
    Patience& patience_;
    unsigned limit_, spins_ = 0, yields_ = 0;
  };

  void run_on_workers(unsigned parts) {
    pending_.store(parts - 1, std::memory_order_relaxed);
    publish(parts);
    run(0);
    Wait wait(patience_);
    for (unsigned left = 0; (left = pending_.load(std::memory_order_acquire)) != 0;) {
      if (!wait.pause()) pending_.wait(left, std::memory_order_acquire);
    }
  }

  void stop() noexcept {
    stopping_.store(true, std::memory_order_relaxed);
    publish(size_);
    for (std::thread& worker : workers_) worker.join();
  }

  void publish(unsigned parts) noexcept {
    const std::uint32_t next = unpacked(region_.load(std::memory_order_relaxed)).generation + 1;
    region_.store(packed({next, parts}), std::memory_order_release);
    generation_.store(next, std::memory_order_release);
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
    Patience patience;
    for (std::uint32_t seen = 0;;) {
      Region now = unpacked(region_.load(std::memory_order_acquire));
      for (Wait wait(patience); now.generation == seen; now = unpacked(region_.load(std::memory_order_acquire))) {
        if (!wait.pause()) generation_.wait(seen, std::memory_order_acquire);
      }
      seen = now.generation;
      if (stopping_.load(std::memory_order_relaxed)) return;
      if (worker >= now.parts) continue;  // nobody waits for it: the next region may have begun
      run(worker);
      if (pending_.fetch_sub(1, std::memory_order_release) == 1) pending_.notify_one();
    }
  }

  Executor* executor_ = nullptr;
  unsigned size_ = 1;
  std::unique_ptr<Left[]> left_;  ///< of each part
  std::vector<std::thread> workers_;
  std::atomic<std::uint64_t> region_{0};
  std::atomic<std::uint32_t> generation_{0};  ///< of the region, to sleep on
  std::atomic<unsigned> pending_{0};
  Patience patience_;  ///< of the caller
  std::atomic<bool> stopping_{false};
  Task task_;
  std::atomic_flag failed_;
  std::exception_ptr failure_;
};

}  // namespace mllama
