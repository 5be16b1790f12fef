// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <type_traits>
#include <variant>

#include <mllama/core/rounding.hpp>

/// How a weight is stored. A format is a tag; `Weights<Format>` is a matrix stored in it, as it lies in the file, with a
/// reference decode. Kernels read the same bytes, faster.

namespace mllama {

/// IEEE binary32.
struct F32 {
  using stored = float;
  static constexpr std::string_view name = "F32";
  static constexpr double bits = 32;
  static constexpr float decode(float value) noexcept { return value; }
  static constexpr float encode(float value) noexcept { return value; }
};

/// bfloat16: the upper half of a binary32.
struct BF16 {
  using stored = std::uint16_t;
  static constexpr std::string_view name = "BF16";
  static constexpr double bits = 16;
  static constexpr float decode(std::uint16_t value) noexcept { return std::bit_cast<float>(std::uint32_t{value} << 16U); }
  /// The nearest one, ties to even. A NaN stays one.
  static constexpr std::uint16_t encode(float value) noexcept {
    const auto word = std::bit_cast<std::uint32_t>(value);
    if ((word & 0x7fffffffU) > 0x7f800000U) return static_cast<std::uint16_t>(word >> 16U | 0x40U);
    return static_cast<std::uint16_t>((word + 0x7fffU + (word >> 16U & 1U)) >> 16U);
  }
};

/// IEEE binary16.
struct F16 {
  using stored = std::uint16_t;
  static constexpr std::string_view name = "F16";
  static constexpr double bits = 16;
  static constexpr float decode(std::uint16_t value) noexcept {
    // All three cases and a choice, not branches: a loop of these is a vector loop.
    const std::uint32_t sign = (value & 0x8000U) << 16U, exponent = (value >> 10U) & 31U, fraction = value & 0x3ffU;
    const std::uint32_t special = 0x7f800000U | (fraction << 13U), normal = ((exponent + 112U) << 23U) | (fraction << 13U);
    const auto subnormal = std::bit_cast<std::uint32_t>(static_cast<float>(fraction) * 0x1p-24F);
    return std::bit_cast<float>(sign | (exponent == 31 ? special : exponent == 0 ? subnormal : normal));
  }
  /// The nearest one, ties to even; infinity from 65520 on. A NaN stays one.
  static constexpr std::uint16_t encode(float value) noexcept {
    const auto word = std::bit_cast<std::uint32_t>(value);
    const std::uint32_t sign = word >> 16U & 0x8000U, size = word & 0x7fffffffU;
    const std::uint32_t special = size > 0x7f800000U ? 0x7e00U : 0x7c00U;
    const std::uint32_t normal = (size - 0x38000000U + 0xfffU + (size >> 13U & 1U)) >> 13U;
    // Adding 0.5 shifts a number below 2^-14 so that its last bit counts 2^-24, and rounds it there.
    const std::uint32_t subnormal = std::bit_cast<std::uint32_t>(std::bit_cast<float>(size) + 0.5F) - 0x3f000000U;
    return static_cast<std::uint16_t>(sign | (size >= 0x477ff000U ? special : size < 0x38800000U ? subnormal : normal));
  }
};

/// 4-bit normal float of QLoRA: a block of consecutive elements (row major, blocks may span rows) shares one scale; an element
/// is a code of the table below times that scale. The first of two elements is in the high nibble.
/// Source:  Dettmers et al. 2023 (arXiv:2305.14314); bitsandbytes `quant_type: nf4`.
struct NF4 {
  static constexpr std::string_view name = "NF4";
  static constexpr double bits = 4;
  static constexpr std::array<std::uint8_t, 16> ascending{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  static constexpr std::array<float, 16> table{
      std::bit_cast<float>(0xbf800000U), std::bit_cast<float>(0xbf3239b1U), std::bit_cast<float>(0xbf066b30U),
      std::bit_cast<float>(0xbeca32a0U), std::bit_cast<float>(0xbe91a24dU), std::bit_cast<float>(0xbe3d353fU),
      std::bit_cast<float>(0xbdba7871U), std::bit_cast<float>(0x00000000U), std::bit_cast<float>(0x3da2faffU),
      std::bit_cast<float>(0x3e24cae3U), std::bit_cast<float>(0x3e7c04ddU), std::bit_cast<float>(0x3ead033aU),
      std::bit_cast<float>(0x3ee1a4b8U), std::bit_cast<float>(0x3f1007abU), std::bit_cast<float>(0x3f3913b3U),
      std::bit_cast<float>(0x3f800000U)};
};

/// 4-bit float: a sign and one of eight magnitudes, which do not ascend with their codes. Blocks and nibbles as in NF4. Code 8, minus
/// zero, decodes to +0.
/// Source:  bitsandbytes `quant_type: fp4`.
struct FP4 {
  static constexpr std::string_view name = "FP4";
  static constexpr double bits = 4;
  static constexpr std::array<std::uint8_t, 16> ascending{11, 10, 13, 12, 15, 14, 9, 0, 8, 1, 6, 7, 4, 5, 2, 3};
  static constexpr std::array<float, 16> table = [] {
    constexpr std::array<std::uint32_t, 8> magnitudes{0x00000000U, 0x3baaaaabU, 0x3f2aaaabU, 0x3f800000U,
                                                      0x3eaaaaabU, 0x3f000000U, 0x3e2aaaabU, 0x3e800000U};
    std::array<float, 16> values{};
    for (std::size_t code = 0; code < 8; ++code) {
      values[code] = std::bit_cast<float>(magnitudes[code]);
      values[code + 8] = 0 - values[code];  // not a negation, which would make −0 of 0
    }
    return values;
  }();
};

/// Signed bytes with a scale per row: the row's largest magnitude, which the byte 127 stands for.
/// Source:  Dettmers et al. 2022, LLM.int8() (arXiv:2208.07339); bitsandbytes `Linear8bitLt`.
struct Int8 {
  using code = std::int8_t;
  static constexpr std::string_view name = "INT8";
  static constexpr double bits = 8;
  static constexpr float step = 7.874015718698502e-3F;  ///< 1 / 127, which the reference multiplies by
};

/// One stored number per element.
template <class F>
concept DenseFormat = requires(typename F::stored value) {
  { F::decode(value) } -> std::same_as<float>;
  { F::encode(1.0F) } -> std::same_as<typename F::stored>;
};

/// 4-bit codes with a scale per block: what each stands for, and the codes in ascending order of that.
template <class F>
concept BlockFormat = requires {
  { F::table } -> std::convertible_to<const std::array<float, 16>&>;
  { F::ascending } -> std::convertible_to<const std::array<std::uint8_t, 16>&>;
};

/// The 4-bit codes of `F` in the order in which a product with eight rows at a time reads them; scales as ever. Of each eight rows,
/// four bytes of every row lie together: those of rows 0 to 3, byte by byte, then those of rows 4 to 7.
/// Rows are a multiple of 8, columns one of the block.
template <BlockFormat F>
struct Packed {
  using unpacked = F;
  static constexpr std::string_view name = std::same_as<F, NF4> ? "NF4x8" : "FP4x8";
  static constexpr double bits = 4;
  static constexpr std::size_t group = 8;       ///< rows
  static constexpr std::size_t unit_bytes = 4;  ///< of a row that lie together

  /// Where byte `byte` of row `row` is; a row has `row_bytes`.
  static constexpr std::size_t place(std::size_t row, std::size_t byte, std::size_t row_bytes) noexcept {
    const std::size_t in_group = row % group;
    return row / group * group * row_bytes + byte / unit_bytes * (group * unit_bytes) + in_group / 4 * 16 + byte % unit_bytes * 4 +
           in_group % 4;
  }
};

/// 4-bit codes in an order of their own.
template <class F>
concept PackedFormat = requires {
  typename F::unpacked;
  { F::place(0, 0, 0) } -> std::same_as<std::size_t>;
};

/// Integer codes with a scale per row.
template <class F>
concept RowFormat = requires {
  typename F::code;
  { F::step } -> std::convertible_to<float>;
};

/// Whichever of `Formats` a tensor of the file has: decided once per tensor when it is loaded, never per element.
/// The first one is nominal: it is what a model without a file prints and counts.
template <class... Formats>
struct AnyOf {};

/// What checkpoints hold: linears of 4 or 8 bits or any of the float types, per tensor.
using Stored = AnyOf<NF4, FP4, Int8, BF16, F16, F32, Packed<NF4>>;
/// The same for heads, which are float unless somebody asks for less.
using StoredHead = AnyOf<BF16, F16, F32, NF4, FP4, Int8, Packed<NF4>>;
/// The same for tensors that are never quantised.
using StoredFloat = AnyOf<BF16, F16, F32>;

/// A matrix as it is stored. Does not own its bytes.
template <class Format>
struct Weights;

template <DenseFormat F>
struct Weights<F> {
  using format = F;
  const typename F::stored* data = nullptr;
  std::size_t rows = 0, columns = 0;

  [[nodiscard]] constexpr bool loaded() const noexcept { return data != nullptr; }
  /// Elements [first, first + out.size()) in row-major order.
  constexpr void decode(std::size_t first, std::span<float> out) const noexcept {
    for (std::size_t i = 0; i < out.size(); ++i) out[i] = F::decode(data[first + i]);
  }
  [[nodiscard]] constexpr std::size_t bytes() const noexcept { return rows * columns * sizeof(typename F::stored); }
};

template <BlockFormat F>
struct Weights<F> {
  using format = F;
  const std::uint8_t* codes = nullptr;  ///< two per byte
  std::size_t rows = 0, columns = 0;
  std::size_t block = 64;                      ///< elements that share a scale, a power of two
  const float* absmax = nullptr;               ///< the scales, or null when they are quantised themselves:
  const std::uint8_t* absmax_codes = nullptr;  ///< index into `nested_map`, per block
  const float* nested_absmax = nullptr;        ///< scale of `nested_block` scales
  const float* nested_map = nullptr;           ///< 256 values
  std::size_t nested_block = 256;
  float nested_offset = 0;

  [[nodiscard]] constexpr bool loaded() const noexcept { return codes != nullptr; }

  /// Scale of block `b`: two roundings in the nested case, as bitsandbytes' dequantiser does it.
  [[nodiscard]] constexpr float scale(std::size_t b) const noexcept {
    if (absmax != nullptr) return absmax[b];
    return rounded(nested_map[absmax_codes[b]] * nested_absmax[b / nested_block]) + nested_offset;
  }
  constexpr void decode(std::size_t first, std::span<float> out) const noexcept {
    for (std::size_t i = 0; i < out.size();) {
      const std::size_t b = (first + i) / block, end = std::min((b + 1) * block - first, out.size());
      const float s = scale(b);
      for (; i < end; ++i) {
        const std::size_t element = first + i;
        const unsigned byte = codes[element / 2];
        out[i] = F::table[element % 2 == 0 ? byte >> 4U : byte & 15U] * s;
      }
    }
  }
  [[nodiscard]] constexpr std::size_t bytes() const noexcept {
    const std::size_t count = rows * columns, blocks = (count + block - 1) / block;
    const std::size_t scales = absmax != nullptr ? blocks * 4 : blocks + (blocks + nested_block - 1) / nested_block * 4 + 1024;
    return (count + 1) / 2 + scales;
  }
};

/// The matrix of its base, but for the order of the codes.
template <PackedFormat F>
struct Weights<F> : Weights<typename F::unpacked> {
  using format = F;

  constexpr void decode(std::size_t first, std::span<float> out) const noexcept {
    for (std::size_t i = 0; i < out.size(); ++i) {
      const std::size_t element = first + i, row = element / this->columns, column = element % this->columns;
      const unsigned byte = this->codes[F::place(row, column / 2, this->columns / 2)];
      out[i] = F::unpacked::table[column % 2 == 0 ? byte >> 4U : byte & 15U] * this->scale(element / this->block);
    }
  }
};

template <RowFormat F>
struct Weights<F> {
  using format = F;
  const typename F::code* codes = nullptr;
  std::size_t rows = 0, columns = 0;
  const float* scales = nullptr;  ///< per row, its largest magnitude
  float outlier_threshold = 6;    ///< of activations, where they are quantised too; 0: there are no outliers

  [[nodiscard]] constexpr bool loaded() const noexcept { return codes != nullptr; }
  /// Two roundings, in this order, as bitsandbytes' dequantiser does it.
  constexpr void decode(std::size_t first, std::span<float> out) const noexcept {
    for (std::size_t i = 0; i < out.size();) {
      const std::size_t row = (first + i) / columns, end = std::min((row + 1) * columns - first, out.size());
      for (; i < end; ++i) out[i] = static_cast<float>(codes[first + i]) * scales[row] * F::step;
    }
  }
  [[nodiscard]] constexpr std::size_t bytes() const noexcept { return rows * columns + rows * sizeof(float); }
};

template <class... Fs>
struct Weights<AnyOf<Fs...>> {
  using format = AnyOf<Fs...>;
  std::variant<Weights<Fs>...> stored;

  [[nodiscard]] constexpr bool loaded() const noexcept {
    return std::visit([](const auto& w) { return w.loaded(); }, stored);
  }
  [[nodiscard]] constexpr std::size_t bytes() const noexcept {
    return std::visit([](const auto& w) { return w.bytes(); }, stored);
  }
  // NOLINTNEXTLINE(bugprone-exception-escape): no alternative can leave the variant without a value
  constexpr void decode(std::size_t first, std::span<float> out) const noexcept {
    std::visit([&](const auto& w) { w.decode(first, out); }, stored);
  }
};

/// Calls `use` with the weights in the format that they have.
template <class F, class Use>
constexpr decltype(auto) with_format(const Weights<F>& weights, Use&& use) {
  if constexpr (requires { weights.stored; }) {
    return std::visit(std::forward<Use>(use), weights.stored);
  } else {
    return std::forward<Use>(use)(weights);
  }
}

namespace detail {
template <class F>
struct NominalFormat {
  using type = F;
};
template <class First, class... Rest>
struct NominalFormat<AnyOf<First, Rest...>> {
  using type = First;
};
}  // namespace detail

/// The format that a format stands for when no file has been read.
template <class F>
using nominal_format = typename detail::NominalFormat<F>::type;

/// A storage format, or a choice of them.
template <class F>
concept WeightFormat = requires(const Weights<F>& weights) {
  { weights.loaded() } -> std::same_as<bool>;
};

}  // namespace mllama
