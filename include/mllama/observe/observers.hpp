// SPDX-License-Identifier: MIT
#pragma once

#include <string_view>
#include <tuple>
#include <utility>

#include <mllama/core/context.hpp>

namespace mllama {

/// Several observers as one. Each is shown what it wants, in this order, after those that replace it have done so:
/// `Context<cpu<>, Observers<Statistics, NonFiniteFinder>> ctx; … ctx.observer().get<Statistics>()`
template <class... Each>
class Observers {
 public:
  Observers() = default;
  explicit Observers(Each... observers)
    requires(sizeof...(Each) > 0)
      : each_(std::move(observers)...) {}

  static constexpr bool wants(std::string_view name) { return (detail::wants<Each>(name) || ...); }
  [[nodiscard]] bool wants_now(std::string_view name) const {
    return std::apply([&](const Each&... each) { return (detail::wants_now(each, name) || ...); }, each_);
  }

  template <class V, class Ctx>
  void operator()(const Tap& tap, const V& view, Ctx& ctx) {
    std::apply([&](Each&... each) { (detail::show(each, tap, view, ctx), ...); }, each_);
  }

  template <class V>
  void replace(const Tap& tap, const V& view) {
    std::apply([&](Each&... each) { (detail::replace(each, tap, view), ...); }, each_);
  }

  template <class Observer>
  [[nodiscard]] Observer& get() noexcept {
    return std::get<Observer>(each_);
  }

 private:
  std::tuple<Each...> each_;
};

}  // namespace mllama
