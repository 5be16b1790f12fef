// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>

#include <mllama/core/format.hpp>
#include <mllama/kernels/isa/shape.hpp>

namespace mllama_test {

/// The operations of an instruction set in scalar code: what its own are tested against, and what runs its bodies without it.
template <class Shape>
struct Emulated : Shape {
  static constexpr std::size_t bytes = Shape::bytes;

  template <class T>
  struct Vector {
    static constexpr std::size_t lanes = bytes / sizeof(T);
    std::array<T, lanes> lane{};
  };
  using Bytes = Vector<std::uint8_t>;
  using Words = Vector<std::int16_t>;
  using Ints = Vector<std::int32_t>;
  using Floats = Vector<float>;

  static Bytes load_bytes(const void* from) { return load<Bytes>(from); }
  static Words load_words(const void* from) { return load<Words>(from); }
  static Floats load_floats(const void* from) { return load<Floats>(from); }
  template <class T>
  static void store(void* to, const Vector<T>& values) {
    std::memcpy(to, values.lane.data(), bytes);
  }
  static Ints repeat_ints(const void* from) { return repeat<Ints>(from); }
  static Words repeat_words(const void* from) { return repeat<Words>(from); }
  static Bytes repeat_bytes(const void* from) { return repeat<Bytes>(from); }

  /// Where the bytes of units lie is said by where decoding leaves their codes: those of row i in lane i.
  template <std::size_t width>
  static void load_units(const std::uint8_t* const* rows, std::size_t at, Bytes (&units)[8]) {
    constexpr std::size_t elements = 4 / width;
    for (std::size_t u = 0; u < 8; ++u) {
      for (std::size_t position = 0; position < 2 * bytes; ++position) {
        const std::size_t vector = position / (bytes / width), lane = position % (bytes / width);
        const std::size_t byte = order<width>[position] / 2, row = lane / elements;
        units[u].lane[byte] = rows[row][at + 4 * u + Shape::Order::unit_weight(width, vector, lane % elements) / 2];
      }
    }
  }
  static void split(mllama::Int8, const Bytes& values, Words (&out)[2]) {
    for (std::size_t i = 0; i < Bytes::lanes; ++i) out[i % 2].lane[i / 2] = static_cast<std::int8_t>(values.lane[i]);
  }

  template <mllama::DenseFormat F>
  static Floats floats_of(F, const typename F::stored* from) {
    return lanes<Floats>([&](std::size_t i) { return F::decode(from[i]); });
  }
  static Floats floats_of(mllama::Int8, const std::int8_t* from) {
    return lanes<Floats>([&](std::size_t i) { return static_cast<float>(from[i]); });
  }
  static Words words_of(mllama::Int8, const std::int8_t* from) {
    return lanes<Words>([&](std::size_t i) { return std::int16_t{from[i]}; });
  }

  static Ints zero_ints() { return {}; }
  static Floats zero_floats() { return {}; }
  static Floats broadcast(const float* from) {
    return lanes<Floats>([&](std::size_t) { return *from; });
  }
  static const float* table(const float* from) { return from; }
  static Floats look_up(const float* table, const std::uint8_t* index) {
    return lanes<Floats>([&](std::size_t i) { return table[index[i]]; });
  }
  template <class Vector>
  static Vector held(const Vector& values) {
    return values;
  }
  /// A step has 2 · bytes weights: two slots at most.
  static Floats scales(const float* from) {
    return lanes<Floats>([&](std::size_t i) { return from[i * 8 / mllama::kernels::isa::slot]; });
  }

  static auto book(const mllama::kernels::isa::ByteBook& entries) { return entries; }
  static auto book(const mllama::kernels::isa::WordBook& entries) { return entries; }
  static auto book(const mllama::kernels::isa::FloatBook& entries) { return entries; }
  static auto short_book(const mllama::kernels::isa::FloatBook& entries) { return entries; }

  static void decode(const mllama::kernels::isa::ByteBook& book, const Bytes& codes, Bytes (&out)[2]) {
    look_up(book, codes, 0, out);
  }
  static void decode(const mllama::kernels::isa::WordBook& book, const Bytes& codes, Words (&out)[4]) {
    look_up(book, codes, 0, out);
  }
  static void decode(const mllama::kernels::isa::FloatBook& book, const Bytes& codes, std::size_t half, Floats (&out)[4]) {
    look_up(book, codes, 4 * half, out);
  }

  static Ints dot_words(Ints sum, const Words& a, const Words& b) {
    for (std::size_t i = 0; i < Words::lanes; ++i) {
      sum.lane[Shape::neighbours ? i / 2 : i % Ints::lanes] += a.lane[i] * b.lane[i];
    }
    return sum;
  }
  static Ints dot_bytes(Ints sum, const Bytes& a, const Bytes& b) {
    for (std::size_t i = 0; i < Bytes::lanes; ++i) {
      const int first = Shape::lowest < 0 ? static_cast<std::int8_t>(a.lane[i]) : a.lane[i];
      sum.lane[i / 4] += first * static_cast<std::int8_t>(b.lane[i]);
    }
    return sum;
  }
  static Ints multiply_words(const Words& a, const Words& b) { return dot_words({}, a, b); }
  static Ints multiply_bytes(const Bytes& a, const Bytes& b) { return dot_bytes({}, a, b); }

  static Floats dot_bfloats(const Floats& sum, const Words& a, const Words& b) {
    return lanes<Floats>([&](std::size_t i) {
      const auto add = [&](float to, std::size_t word) {
        const auto number = [&](const Words& of) {
          return no_subnormal(mllama::BF16::decode(static_cast<std::uint16_t>(of.lane[word])));
        };
        return no_subnormal(std::fma(number(a), number(b), to));
      };
      return add(add(no_subnormal(sum.lane[i]), 2 * i + 1), 2 * i);
    });
  }
  static Words bfloats_of(const Floats& first, const Floats& second) {
    return lanes<Words>([&](std::size_t i) {
      const float number = no_subnormal(i < Floats::lanes ? first.lane[i] : second.lane[i - Floats::lanes]);
      return static_cast<std::int16_t>(mllama::BF16::encode(number));
    });
  }

  /// What lies in the halves of a vector, in the pairs of its lanes.
  static Words interleaved(const Words& halves) {
    return lanes<Words>([&](std::size_t i) { return halves.lane[i % 2 * Floats::lanes + i / 2]; });
  }
  static void split(mllama::BF16, const Words& pairs, Floats (&out)[2]) {
    for (std::size_t i = 0; i < Words::lanes; ++i) {
      out[i % 2].lane[i / 2] = mllama::BF16::decode(static_cast<std::uint16_t>(pairs.lane[i]));
    }
  }
  static float largest(const Floats& values) { return *std::ranges::max_element(values.lane); }

  /// Registers of 16 vectors.
  class Matrices {
   public:
    template <int to>
    void zero() {
      registers_[to] = {};
    }
    template <int to>
    void load(const void* from, std::size_t stride) {
      for (std::size_t r = 0; r < rows; ++r) std::memcpy(&registers_[to][r], static_cast<const char*>(from) + r * stride, bytes);
    }
    template <int from>
    void store(void* to, std::size_t stride) const {
      for (std::size_t r = 0; r < rows; ++r) std::memcpy(static_cast<char*>(to) + r * stride, &registers_[from][r], bytes);
    }
    /// Products of the first numbers of pairs are added up, those of the second ones apart; then their sums, to what is there.
    template <int sum, int a, int b>
    void multiply_add() {
      float first[rows][bytes / 2], second[rows][bytes / 2];
      decode(a, first);
      decode(b, second);
      for (std::size_t r = 0; r < rows; ++r) {
        for (std::size_t c = 0; c < Floats::lanes; ++c) {
          float even = 0, odd = 0;
          for (std::size_t k = 0; k < rows; ++k) {
            even = no_subnormal(std::fma(first[r][2 * k], second[k][2 * c], even));
            odd = no_subnormal(std::fma(first[r][2 * k + 1], second[k][2 * c + 1], odd));
          }
          std::uint32_t& bits = registers_[sum][r][c];
          bits = std::bit_cast<std::uint32_t>(no_subnormal(no_subnormal(std::bit_cast<float>(bits)) + no_subnormal(even + odd)));
        }
      }
    }

   private:
    static constexpr std::size_t rows = 16;
    void decode(std::size_t of, float (&numbers)[rows][bytes / 2]) const {
      for (std::size_t r = 0; r < rows; ++r) {
        for (std::size_t word = 0; word < bytes / 2; ++word) {
          const std::uint32_t both = registers_[of][r][word / 2];
          numbers[r][word] = no_subnormal(mllama::BF16::decode(static_cast<std::uint16_t>(word % 2 == 0 ? both : both >> 16U)));
        }
      }
    }

    std::array<std::array<std::array<std::uint32_t, bytes / 4>, rows>, 8> registers_{};
  };

  static Floats to_floats(const Ints& values) {
    return lanes<Floats>([&](std::size_t i) { return static_cast<float>(values.lane[i]); });
  }
  static Words word_pairs(const Floats& first, const Floats& second) {
    return lanes<Words>([&](std::size_t i) {
      const float number = (i % 2 == 0 ? first : second).lane[i / 2];
      const bool fits = number >= -0x1p31F && number < 0x1p31F;
      return static_cast<std::int16_t>(fits ? std::lrint(number) : 0);
    });
  }
  static Floats add(const Floats& a, const Floats& b) {
    return lanes<Floats>([&](std::size_t i) { return a.lane[i] + b.lane[i]; });
  }
  static Floats multiply(const Floats& a, const Floats& b) {
    return lanes<Floats>([&](std::size_t i) { return mllama::rounded(a.lane[i] * b.lane[i]); });
  }
  static Floats multiply_add(const Floats& a, const Floats& b, const Floats& c) {
    return lanes<Floats>([&](std::size_t i) { return std::fma(a.lane[i], b.lane[i], c.lane[i]); });
  }
  /// The second where neither is larger, as x86's instruction has it.
  static Floats maximum(const Floats& a, const Floats& b) {
    return lanes<Floats>([&](std::size_t i) { return a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; });
  }
  static Floats power_of_two(const Floats& values) {
    return lanes<Floats>([&](std::size_t i) { return std::bit_cast<float>(std::bit_cast<std::uint32_t>(values.lane[i]) << 23U); });
  }
  /// Of eight vectors: the upper half is added to the lower one until four lanes are left, then neighbours are added.
  static void store_sums(float* to, const Floats* values) {
    for (std::size_t v = 0; v < 8; ++v) {
      Floats left = values[v];
      for (std::size_t half = Floats::lanes / 2; half >= 4; half /= 2) {
        for (std::size_t i = 0; i < half; ++i) left.lane[i] += left.lane[i + half];
      }
      to[v] = (left.lane[0] + left.lane[1]) + (left.lane[2] + left.lane[3]);
    }
  }
  /// The upper half is added to the lower one until a lane is left.
  static float sum(Floats values) {
    for (std::size_t half = Floats::lanes / 2; half != 0; half /= 2) {
      for (std::size_t i = 0; i < half; ++i) values.lane[i] += values.lane[i + half];
    }
    return values.lane[0];
  }

 private:
  static float no_subnormal(float number) {
    return std::abs(number) < std::numeric_limits<float>::min() ? std::copysign(0.0F, number) : number;
  }
  template <class V>
  static V load(const void* from) {
    V out;
    std::memcpy(out.lane.data(), from, bytes);
    return out;
  }
  template <class V>
  static V repeat(const void* from) {
    V out;
    for (std::size_t i = 0; i < bytes; i += 4) std::memcpy(reinterpret_cast<char*>(out.lane.data()) + i, from, 4);
    return out;
  }
  template <class V, class Function>
  static V lanes(Function&& function) {
    V out;
    for (std::size_t i = 0; i < V::lanes; ++i) out.lane[i] = function(i);
    return out;
  }
  /// The weight of a step at each position of its decoded vectors.
  template <std::size_t Width>
  static constexpr auto order = [] {
    std::array<std::size_t, 2 * bytes> weights{};
    for (std::size_t position = 0; position < weights.size(); ++position) {
      weights[position] = Shape::Order::weight(bytes, Width, position);
    }
    return weights;
  }();
  /// Vectors [first, first + Count) of a decoded step.
  template <class T, class E, std::size_t Count>
  static void look_up(const std::array<E, 16>& book, const Bytes& codes, std::size_t first, Vector<T> (&out)[Count]) {
    for (std::size_t v = 0; v < Count; ++v) {
      for (std::size_t i = 0; i < Vector<T>::lanes; ++i) {
        const std::size_t weight = order<sizeof(T)>[(first + v) * Vector<T>::lanes + i];
        const unsigned byte = codes.lane[weight / 2];
        out[v].lane[i] = static_cast<T>(book[weight % 2 == 0 ? byte >> 4U : byte & 15U]);
      }
    }
  }
};

}  // namespace mllama_test
