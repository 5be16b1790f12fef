// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include <mllama/core/format.hpp>
#include <mllama/kernels/isa/shape.hpp>

namespace mllama::kernels::isa {

/// The operations of an instruction set in scalar code: what its own ones are tested against, and what runs without it.
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

  [[nodiscard]] static Bytes load_bytes(const void* from) { return load<std::uint8_t>(from); }
  [[nodiscard]] static Words load_words(const void* from) { return load<std::int16_t>(from); }
  [[nodiscard]] static Floats load_floats(const void* from) { return load<float>(from); }
  static void store(void* to, const Floats& values) { std::memcpy(to, values.lane.data(), bytes); }

  /// Numbers of other formats as floats, one per lane.
  template <class F>
  [[nodiscard]] static Floats load_as_floats(F, const typename F::stored* from) {
    Floats out;
    for (std::size_t i = 0; i < Floats::lanes; ++i) out.lane[i] = F::decode(from[i]);
    return out;
  }
  [[nodiscard]] static Floats load_as_floats(const std::int8_t* from) {
    Floats out;
    for (std::size_t i = 0; i < Floats::lanes; ++i) out.lane[i] = from[i];
    return out;
  }
  [[nodiscard]] static Words load_as_words(const std::int8_t* from) {
    Words out;
    for (std::size_t i = 0; i < Words::lanes; ++i) out.lane[i] = from[i];
    return out;
  }

  [[nodiscard]] static Ints zero_ints() { return {}; }
  [[nodiscard]] static Floats zero() { return {}; }
  [[nodiscard]] static Floats broadcast(const float* from) {
    Floats out;
    out.lane.fill(*from);
    return out;
  }
  /// `from[s]` in all lanes of slot s.
  [[nodiscard]] static Floats slots(const float* from) {
    Floats out;
    for (std::size_t i = 0; i < Floats::lanes; ++i) out.lane[i] = from[i / 4];
    return out;
  }

  /// Codebooks as registers hold them.
  [[nodiscard]] static ByteBook book(const ByteBook& entries) { return entries; }
  [[nodiscard]] static WordBook book(const WordBook& entries) { return entries; }
  [[nodiscard]] static FloatBook book(const FloatBook& entries) { return entries; }

  /// A step of codes: all bytes, all words, or one `half` of the floats.
  static void decode(const ByteBook& book, const Bytes& codes, Bytes (&out)[2]) { look_up(book, codes, out, 0); }
  static void decode(const WordBook& book, const Bytes& codes, Words (&out)[4]) { look_up(book, codes, out, 0); }
  static void decode(const FloatBook& book, const Bytes& codes, std::size_t half, Floats (&out)[4]) {
    look_up(book, codes, out, half * 4);
  }

  /// `sum` plus the products of elements, those of each four bytes together in one lane.
  [[nodiscard]] static Ints dot(Ints sum, const Words& a, const Words& b) {
    for (std::size_t i = 0; i < Words::lanes; ++i) sum.lane[i / 2] += a.lane[i] * b.lane[i];
    return sum;
  }
  /// The same for bytes: `a` is what the shape says, `b` signed.
  [[nodiscard]] static Ints dot(Ints sum, const Bytes& a, const Bytes& b) {
    for (std::size_t i = 0; i < bytes; ++i) {
      const int first = Shape::lowest < 0 ? static_cast<std::int8_t>(a.lane[i]) : a.lane[i];
      sum.lane[i / 4] += first * static_cast<std::int8_t>(b.lane[i]);
    }
    return sum;
  }

  [[nodiscard]] static Floats to_floats(const Ints& values) {
    Floats out;
    for (std::size_t i = 0; i < Floats::lanes; ++i) out.lane[i] = static_cast<float>(values.lane[i]);
    return out;
  }
  [[nodiscard]] static Floats multiply(Floats a, const Floats& b) {
    for (std::size_t i = 0; i < Floats::lanes; ++i) a.lane[i] *= b.lane[i];
    return a;
  }
  /// `a · b + c`, rounded once.
  [[nodiscard]] static Floats multiply_add(const Floats& a, const Floats& b, Floats c) {
    for (std::size_t i = 0; i < Floats::lanes; ++i) c.lane[i] = std::fma(a.lane[i], b.lane[i], c.lane[i]);
    return c;
  }
  /// Sum of the lanes: the upper half is added to the lower one until one lane is left.
  [[nodiscard]] static float sum(Floats values) {
    for (std::size_t half = Floats::lanes / 2; half != 0; half /= 2) {
      for (std::size_t i = 0; i < half; ++i) values.lane[i] += values.lane[i + half];
    }
    return values.lane[0];
  }

 private:
  template <class T>
  [[nodiscard]] static Vector<T> load(const void* from) {
    Vector<T> out;
    std::memcpy(out.lane.data(), from, bytes);
    return out;
  }

  /// Vectors [first, first + Count) of a decoded step.
  template <class T, class E, std::size_t Count>
  static void look_up(const std::array<E, 16>& book, const Bytes& codes, Vector<T> (&out)[Count], std::size_t first) {
    for (std::size_t v = 0; v < Count; ++v) {
      for (std::size_t i = 0; i < Vector<T>::lanes; ++i) {
        const std::size_t weight = Shape::Order::weight(bytes, sizeof(T), (first + v) * Vector<T>::lanes + i);
        const unsigned byte = codes.lane[weight / 2];
        out[v].lane[i] = book[weight % 2 == 0 ? byte >> 4U : byte & 15U];
      }
    }
  }
};

}  // namespace mllama::kernels::isa
