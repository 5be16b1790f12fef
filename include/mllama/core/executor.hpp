// SPDX-License-Identifier: MIT
#pragma once

namespace mllama {

/// Threads of the program's own, for a context that is not to start any: those of a server's pool, or the caller's alone. Parallel
/// regions have no barriers inside and share nothing that they write, so calls may be at the same time or one after the other; results
/// have the same bits either way.
///
///     class OneByOne final : public mllama::Executor {
///      public:
///       unsigned threads() const noexcept override { return 4; }
///       void run(unsigned count, Task task, void* argument) override {
///         for (unsigned index = 0; index < count; ++index) task(argument, index);
///       }
///     };
///     OneByOne executor;
///     mllama::Context ctx(executor);  // refers to it
class Executor {
 public:
  using Task = void (*)(void* argument, unsigned index);

  /// Parts of a region, at most: always the same number, not 0. Scratch memory is in proportion to it.
  [[nodiscard]] virtual unsigned threads() const noexcept = 0;

  /// Calls `task(argument, index)` once for each index below `count`, which is at most `threads()`, on any threads and in any order,
  /// and returns when all calls have returned. What the caller did before is to be visible to the calls, and what they did to the
  /// caller: mutexes, joins and the like see to it. Tasks do not throw, and call no executor.
  /// Errors:  may throw what it likes, after all calls that it has begun have returned.
  virtual void run(unsigned count, Task task, void* argument) = 0;

 protected:
  Executor() = default;
  Executor(const Executor&) = default;
  Executor& operator=(const Executor&) = default;
  ~Executor() = default;  // nobody owns one
};

}  // namespace mllama
