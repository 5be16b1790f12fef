// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <mllama/core/tensor.hpp>
#include <mllama/core/visit.hpp>

/// Models without files: every parameter drawn from a seed. For trying out variants, for tests and for benchmarks.

namespace mllama {

/// A model and the memory that its parameters lie in.
template <class Model>
struct RandomModel {
  std::unique_ptr<Model> model;
  std::vector<detail::AlignedBytes> memory;
};

namespace detail {

/// Uniform numbers from the name of a parameter: the same ones whatever else the model has.
/// Source:  FNV-1a of the name, then Numerical Recipes' linear congruential generator; the upper half of each state is used
class NamedNumbers {
 public:
  NamedNumbers(std::string_view name, std::uint32_t seed) noexcept : state_(2166136261U ^ seed) {
    for (const char c : name) state_ = (state_ ^ static_cast<unsigned char>(c)) * 16777619U;
  }
  std::uint32_t bits() noexcept {
    state_ = state_ * 1664525U + 1013904223U;
    return state_ >> 16U;
  }
  /// In [−1, 1).
  float number() noexcept { return static_cast<float>(bits()) * 0x1p-15F - 1; }

 private:
  std::uint32_t state_;
};

template <class F>
struct MemoryFormat {
  using type = F;
};
/// Where a file would decide, F32 if it may, else the nominal format.
template <class... Fs>
struct MemoryFormat<AnyOf<Fs...>> {
  using type = std::conditional_t<(std::same_as<Fs, F32> || ...), F32, nominal_format<AnyOf<Fs...>>>;
};

class RandomFiller {
 public:
  RandomFiller(std::vector<AlignedBytes>& memory, std::uint32_t seed) : memory_(&memory), seed_(seed) {}

  /// Matrices keep the size of what they multiply (variance 1 / columns); norms are about 1, gates and biases about a half.
  template <WeightFormat F, int... Shape>
  void operator()(std::string_view name, Parameter<F, Shape...>& parameter) {
    using P = Parameter<F, Shape...>;
    using Format = typename MemoryFormat<F>::type;
    constexpr std::size_t rows = P::shape[0], columns = P::size / rows;
    const bool table = name.find("embed") != name.npos;
    const float spread = P::shape.size() == 1 || table ? 0.5F : std::sqrt(3.0F / static_cast<float>(columns));
    const float middle = P::shape.size() == 1 && name.find("norm") != name.npos && name.ends_with("weight") ? 1 : 0;
    NamedNumbers numbers(name, seed_);
    Weights<Format> weights;
    weights.rows = rows;
    weights.columns = columns;
    if constexpr (BlockFormat<Format>) {
      auto* codes = take<std::uint8_t>((P::size + 1) / 2);
      auto* absmax = take<float>((P::size + weights.block - 1) / weights.block);
      for (std::size_t i = 0; i < (P::size + 1) / 2; ++i) codes[i] = static_cast<std::uint8_t>(numbers.bits());
      for (std::size_t b = 0; b < (P::size + weights.block - 1) / weights.block; ++b)
        absmax[b] = spread * (1 + 0.1F * numbers.number());
      weights.codes = codes;
      weights.absmax = absmax;
    } else if constexpr (RowFormat<Format>) {
      auto* codes = take<typename Format::code>(P::size);
      auto* scales = take<float>(rows);
      for (std::size_t i = 0; i < P::size; ++i) codes[i] = static_cast<typename Format::code>(127 * numbers.number());
      std::fill_n(scales, rows, spread);
      weights.codes = codes;
      weights.scales = scales;
    } else {
      auto* data = take<typename Format::stored>(P::size);
      for (std::size_t i = 0; i < P::size; ++i) data[i] = Format::encode(middle + spread * numbers.number());
      weights.data = data;
    }
    assign(parameter.weights, weights);
  }

 private:
  template <class T>
  T* take(std::size_t count) {
    memory_->push_back(aligned_bytes(count * sizeof(T)));
    return reinterpret_cast<T*>(memory_->back().get());
  }
  template <class F, class G>
  static void assign(Weights<F>& to, const Weights<G>& from) {
    if constexpr (std::same_as<F, G>) {
      to = from;
    } else {
      to.stored = from;
    }
  }

  std::vector<AlignedBytes>* memory_;
  std::uint32_t seed_;
};

}  // namespace detail

/// A model whose parameters are drawn from a seed; the same on every machine.
/// Costs:  memory for all parameters, float32 where the format allows it
template <class Model>
[[nodiscard]] RandomModel<Model> random_weights(std::uint32_t seed = 0) {
  RandomModel<Model> random{std::make_unique<Model>(), {}};
  detail::RandomFiller fill(random.memory, seed);
  for_each_parameter(*random.model, fill);
  return random;
}

}  // namespace mllama
