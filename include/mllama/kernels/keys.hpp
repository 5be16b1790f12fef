// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <utility>

#include <mllama/core/context.hpp>
#include <mllama/core/format.hpp>
#include <mllama/core/tensor.hpp>

/// Keys and values as they are kept between forward passes, in any KeyFormat, and which of them a row sees.

namespace mllama::kernels {

/// Rows of keys, or of values: one for each position, all heads side by side.
/// Shapes:  elements (positions, kv_heads · head_dim);  int8 only: scales (positions, kv_heads), an element is its code times that
struct KeyRows {
  const void* elements = nullptr;
  const float* scales = nullptr;
  KeyFormat format = KeyFormat::f32;

  KeyRows() = default;
  KeyRows(const float* floats) noexcept : elements(floats) {}  // NOLINT(google-explicit-constructor)
  KeyRows(const void* kept, const float* scale, KeyFormat as) noexcept : elements(kept), scales(scale), format(as) {}

  template <class T>
  [[nodiscard]] const T* as() const noexcept {
    return static_cast<const T*>(elements);
  }
};

/// Heads of keys: how many, and how wide.
struct KeyShape {
  std::size_t heads = 0, dim = 0;
  [[nodiscard]] constexpr std::size_t width() const noexcept { return heads * dim; }
};

[[nodiscard]] constexpr std::size_t element_bytes(KeyFormat format) noexcept {
  return format == KeyFormat::f32 ? 4 : format == KeyFormat::int8 ? 1 : 2;
}

/// Bytes of so many positions of keys, or of values.
[[nodiscard]] constexpr std::size_t kept_bytes(KeyFormat format, const KeyShape& shape, std::size_t positions) noexcept {
  return positions * (shape.width() * element_bytes(format) + (format == KeyFormat::int8 ? shape.heads * sizeof(float) : 0));
}

/// Element `i` of a head.
[[nodiscard]] inline float key_element(const KeyRows& rows, const KeyShape& shape, std::size_t position, std::size_t head,
                                       std::size_t i) noexcept {
  const std::size_t at = position * shape.width() + head * shape.dim + i;
  switch (rows.format) {
    case KeyFormat::f32:
      return rows.as<float>()[at];
    case KeyFormat::bf16:
      return BF16::decode(rows.as<std::uint16_t>()[at]);
    case KeyFormat::f16:
      return F16::decode(rows.as<std::uint16_t>()[at]);
    case KeyFormat::int8:
      break;
  }
  return static_cast<float>(rows.as<std::int8_t>()[at]) * rows.scales[position * shape.heads + head];
}

/// Keys, or values, that are kept. Rows beyond those that were written have no value.
class KeptKeys {
 public:
  KeptKeys() = default;
  explicit KeptKeys(KeyFormat format, MemorySource& source = *std::pmr::new_delete_resource()) noexcept
      : format_(format), source_(&source) {}
  KeptKeys(KeyFormat format, const KeyShape& shape, std::size_t positions, MemorySource& source = *std::pmr::new_delete_resource())
      : KeptKeys(format, source) {
    reserve(shape, positions, 0);
  }

  [[nodiscard]] KeyFormat format() const noexcept { return format_; }
  [[nodiscard]] std::size_t bytes() const noexcept { return elements_.size() + scales_.size() * sizeof(float); }

  /// Makes room for so many positions, and keeps the first `kept`.
  void reserve(const KeyShape& shape, std::size_t positions, std::size_t kept) {
    const std::size_t row = shape.width() * element_bytes(format_);
    Elements elements({positions, row}, *source_);
    std::copy_n(elements_.data(), kept * row, elements.data());
    elements_ = std::move(elements);
    if (format_ != KeyFormat::int8) return;
    Scales scales({positions, shape.heads}, *source_);
    std::copy_n(scales_.data(), kept * shape.heads, scales.data());
    scales_ = std::move(scales);
  }

  operator KeyRows() const noexcept { return {elements_.data(), scales_.data(), format_}; }  // NOLINT(google-explicit-constructor)
  /// The elements, if they are float32.
  [[nodiscard]] float* floats() noexcept { return reinterpret_cast<float*>(elements_.data()); }

  /// Keeps `count` rows from position `first` on, rounded to the nearest that there is. A head of int8 that is not finite is not a
  /// number.
  void write(const KeyShape& shape, std::size_t first, std::size_t count, const float* rows) noexcept {
    const std::size_t begin = first * shape.width(), size = count * shape.width();
    const auto each = [&](auto* to, auto&& encode) { std::transform(rows, rows + size, to + begin, encode); };
    switch (format_) {
      case KeyFormat::f32:
        std::copy_n(rows, size, floats() + begin);
        break;
      case KeyFormat::bf16:
        each(reinterpret_cast<std::uint16_t*>(elements_.data()), BF16::encode);
        break;
      case KeyFormat::f16:
        each(reinterpret_cast<std::uint16_t*>(elements_.data()), F16::encode);
        break;
      case KeyFormat::int8:
        for (std::size_t head = 0; head < count * shape.heads; ++head, rows += shape.dim) {
          scales_.data()[first * shape.heads + head] =
              write_head(rows, shape.dim, reinterpret_cast<std::int8_t*>(elements_.data()) + begin + head * shape.dim);
        }
        break;
    }
  }

 private:
  using Elements = Tensor<std::byte, Rows, Rows>;
  using Scales = Tensor<float, Rows, Rows>;

  /// Returns the scale.
  static float write_head(const float* from, std::size_t dim, std::int8_t* to) noexcept {
    constexpr float largest = 127;
    float most = 0;
    bool finite = true;
    for (std::size_t i = 0; i < dim; ++i) {
      most = std::max(most, std::fabs(from[i]));
      finite = finite && std::isfinite(from[i]);
    }
    const float scale = most / largest;
    if (!finite || scale < std::numeric_limits<float>::min()) {  // so small that a reciprocal might not be a number
      std::fill_n(to, dim, std::int8_t{0});
      return finite ? 0.0F : std::numeric_limits<float>::quiet_NaN();
    }
    for (std::size_t i = 0; i < dim; ++i) to[i] = static_cast<std::int8_t>(std::nearbyint(from[i] / scale));
    return scale;
  }

  KeyFormat format_ = KeyFormat::f32;
  MemorySource* source_ = std::pmr::new_delete_resource();
  Elements elements_;
  Scales scales_;
};

/// Keys and values that lie together: a cache, or one picture. Keys and values of one position are `kv_heads · head_dim` wide.
/// Attention runs over several blocks as if they were one: pictures keep their keys where they are.
struct KeyBlock {
  KeyRows keys, values;
  std::size_t count = 0;
};

/// Consecutive keys [begin, end) of block `block`.
struct KeyRange {
  std::uint32_t block = 0, begin = 0, end = 0;
};

/// Which keys each query row sees: row r sees the ranges of set `set_of_row[r]`, set s being `ranges[first[s] … first[s+1])`.
/// Hidden keys are skipped, not computed and masked. A row whose set is empty gets 0.
struct Visibility {
  std::span<const std::uint32_t> set_of_row;
  std::span<const std::uint32_t> first;
  std::span<const KeyRange> ranges;

  [[nodiscard]] std::span<const KeyRange> of_row(std::size_t row) const noexcept {
    const std::uint32_t set = set_of_row[row];
    return ranges.subspan(first[set], first[set + 1] - first[set]);
  }
};

/// Heads of an attention; query head h reads key/value head `h / (heads / kv_heads)`.
struct Heads {
  std::size_t heads = 0, kv_heads = 0, head_dim = 0;
  [[nodiscard]] constexpr KeyShape keys() const noexcept { return {kv_heads, head_dim}; }
};

/// Keeps `count` rows from position `first` on: KeptKeys::write on all threads.
template <class Ctx>
void keep(Ctx& ctx, KeptKeys& to, const KeyShape& shape, std::size_t first, std::size_t count, const float* rows) {
  ctx.parallel(count, 64, [&](std::size_t begin, std::size_t end, unsigned) {
    to.write(shape, first + begin, end - begin, rows + begin * shape.width());
  });
}

}  // namespace mllama::kernels
