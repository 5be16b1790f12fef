// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include <mllama/core/encode.hpp>
#include <mllama/core/format.hpp>
#include <mllama/core/rounding.hpp>

/// Random numbers for made-up weights: each is a function of a key and its number, so that any piece of a tensor can be made by any
/// thread, and the same on every machine. Only operations that IEEE 754 rounds correctly are used, each rounded by itself.

namespace mllama::detail {

/// Random words by their number.
/// Source:  Steele, Lea, Flood 2014, SplitMix64, whose state is a counter; the key is FNV-1a of a name, mixed with a seed
class NumberedWords {
 public:
  NumberedWords(std::string_view name, std::uint64_t seed) noexcept : key_(0xcbf29ce484222325U) {
    for (const char c : name) key_ = (key_ ^ static_cast<unsigned char>(c)) * 0x100000001b3U;
    key_ = mixed(key_ ^ mixed(seed + golden));
  }
  [[nodiscard]] std::uint64_t operator[](std::uint64_t number) const noexcept { return mixed(key_ + (number + 1) * golden); }

 private:
  static constexpr std::uint64_t golden = 0x9e3779b97f4a7c15U;
  static constexpr std::uint64_t mixed(std::uint64_t x) noexcept {
    x = (x ^ x >> 30U) * 0xbf58476d1ce4e5b9U;
    x = (x ^ x >> 27U) * 0x94d049bb133111ebU;
    return x ^ x >> 31U;
  }

  std::uint64_t key_;
};

/// Elements [first, first + out.size()) of an endless row of entries of `table`, all equally likely: four from each word.
/// `first` is a multiple of 4, the table's size a power of two, at most 2^16.
template <class T>
void draw(const NumberedWords& words, std::span<const T> table, std::size_t first, std::span<T> out) noexcept {
  const auto shift = static_cast<unsigned>(16 - std::countr_zero(table.size()));
  const T* const entries = table.data();
  std::size_t i = 0;
  for (; i + 4 <= out.size(); i += 4) {
    const std::uint64_t word = words[(first + i) / 4];
    out[i] = entries[(word & 0xffffU) >> shift];
    out[i + 1] = entries[(word >> 16U & 0xffffU) >> shift];
    out[i + 2] = entries[(word >> 32U & 0xffffU) >> shift];
    out[i + 3] = entries[word >> 48U >> shift];
  }
  if (i == out.size()) return;
  for (std::uint64_t word = words[(first + i) / 4]; i < out.size(); word >>= 16U) out[i++] = entries[(word & 0xffffU) >> shift];
}

/// The normal distribution, tabulated.
class NormalDistribution {
 public:
  /// Simpson's rule. Each density is a product of the one before, because the ratio of neighbours falls by a constant factor.
  NormalDistribution() {
    double density = 0.3989422804014327, ratio = 0.9999980926531983;  // at 0; exp(-h²/2) for h = 1/512
    const auto step = [&] {
      density *= ratio;
      ratio *= 0.9999961853100345;  // exp(-h²)
      return density;
    };
    below_[0] = 0.5;
    for (std::size_t i = 1; i < below_.size(); ++i) {
      const double left = density, middle = step(), right = step();
      below_[i] = below_[i - 1] + rounded((left + rounded(4 * middle) + right) * (1.0 / 512 / 3));
    }
  }

  /// Share of numbers below x.
  [[nodiscard]] double below(double x) const noexcept {
    if (x < 0) return 1 - below(-x);
    const double position = std::min(x * per_unit, static_cast<double>(below_.size() - 2));
    const auto i = static_cast<std::size_t>(position);
    return below_[i] + rounded((position - static_cast<double>(i)) * (below_[i + 1] - below_[i]));
  }
  /// Share of blocks of 64 numbers whose magnitudes are all below x.
  [[nodiscard]] double peak_below(double x) const noexcept {
    double power = rounded(2 * below(x)) - 1;
    for (int squarings = 0; squarings < 6; ++squarings) power *= power;
    return power;
  }

  /// Where the share of numbers, or of peaks, below is `share`, of (0, 1).
  [[nodiscard]] double quantile(double share) const noexcept {
    return share < 0.5 ? -inverse(1 - share, [&](double x) { return below(x); })
                       : inverse(share, [&](double x) { return below(x); });
  }
  [[nodiscard]] double peak_quantile(double share) const noexcept {
    return inverse(share, [&](double x) { return peak_below(x); });
  }

 private:
  static constexpr double per_unit = 256;

  /// By bisection, to the last bit of a float.
  template <class Below>
  static double inverse(double share, Below&& share_below) noexcept {
    double low = 0, high = 8;
    for (int i = 0; i < 30; ++i) {
      const double middle = (low + high) / 2;
      (share_below(middle) < share ? low : high) = middle;
    }
    return low;
  }

  std::array<double, 8 * 256 + 1> below_{};
};

/// Entries that `draw` picks from: numbers of the standard normal distribution, and what quantisation in blocks of 64 makes of them.
struct NormalTables {
  static constexpr std::size_t block = 64;

  std::array<float, 4096> numbers{};  ///< equally likely, ascending
  std::array<float, 256> peaks{};     ///< largest magnitudes of blocks, equally likely, ascending
  std::array<std::uint8_t, 256> peak_codes{};
  float peak_offset = 0, peak_spread = 0;     ///< the peaks as nested scales: map[code] · spread + offset
  std::array<std::int8_t, 4096> row_codes{};  ///< the numbers as signed bytes
  NormalTables() {
    const NormalDistribution normal;
    const auto middle = [](std::size_t i, const auto& entries) {
      return (static_cast<double>(i) + 0.5) * (1 / static_cast<double>(entries.size()));
    };
    for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] = static_cast<float>(normal.quantile(middle(i, numbers)));
    for (std::size_t i = 0; i < peaks.size(); ++i) peaks[i] = static_cast<float>(normal.peak_quantile(middle(i, peaks)));
    peak_offset = encode_scales(peaks, peak_codes.data(), &peak_spread);
    // A row's largest magnitude is that of the last number, whatever its length.
    for (std::size_t i = 0; i < row_codes.size(); ++i) {
      row_codes[i] = static_cast<std::int8_t>(static_cast<std::int32_t>(std::nearbyint(numbers[i] / numbers.back() * 127)));
    }
    nf4_ = tabulate<NF4>(normal);
    fp4_ = tabulate<FP4>(normal);
  }

  /// Codes of a block's elements but the largest: pairs of them, as often as they occur together.
  template <BlockFormat F>
  [[nodiscard]] std::span<const std::uint8_t> pairs() const noexcept {
    return of<F>().pairs;
  }
  /// Root mean square of decoded elements, those before they were quantised having 1.
  template <BlockFormat F>
  [[nodiscard]] float decoded_size() const noexcept {
    return of<F>().size;
  }

  /// Share of each code, given that the block's largest magnitude is another element's: an average over the peaks.
  template <BlockFormat F>
  [[nodiscard]] std::array<double, 16> shares(const NormalDistribution& normal) const {
    std::array<double, 16> shares{};
    for (const float peak : peaks) {
      double before = normal.below(-double{peak});
      const double all = 1 - rounded(2 * before);
      for (std::size_t rank = 0; rank < 16; ++rank) {
        const double end = rank < 15 ? double{thresholds<F>[rank]} * double{peak} : double{peak};
        const double below = normal.below(end);
        shares[F::ascending[rank]] += rounded((below - before) / all) / static_cast<double>(peaks.size());
        before = below;
      }
    }
    return shares;
  }

 private:
  struct Blocks {
    std::vector<std::uint8_t> pairs;
    float size = 0;
  };
  template <BlockFormat F>
  [[nodiscard]] const Blocks& of() const noexcept {
    return std::same_as<F, NF4> ? nf4_ : fp4_;
  }

  /// A block has one element of magnitude 1; the others come from the shares.
  template <BlockFormat F>
  [[nodiscard]] Blocks tabulate(const NormalDistribution& normal) const {
    const std::array<double, 16> single = shares<F>(normal);
    Blocks blocks;
    double mean_square = 0, below = 0, peak_square = 0;
    for (std::size_t code = 0; code < 16; ++code) {
      mean_square += rounded(single[code] * double{F::table[code]} * double{F::table[code]});
    }
    mean_square = (1 + rounded((block - 1) * mean_square)) / block;
    for (std::size_t pair = 0; pair < 256; ++pair) {
      below += rounded(single[pair / 16] * single[pair % 16]);
      const auto end = pair == 255 ? std::size_t{65536} : static_cast<std::size_t>(rounded(below * 65536) + 0.5);
      blocks.pairs.resize(end, static_cast<std::uint8_t>(pair));
    }
    for (const float peak : peaks) peak_square += rounded(double{peak} * double{peak});
    blocks.size = static_cast<float>(std::sqrt(mean_square * (peak_square / static_cast<double>(peaks.size()))));
    return blocks;
  }

  Blocks nf4_, fp4_;
};

/// Codes of the blocks [first, …), two per byte, as many bytes as there are in `out`: pairs from a table of NormalTables, then one
/// element of each block made the one with the largest magnitude.
template <BlockFormat F>
void draw_codes(const NumberedWords& words, const NumberedWords& peaks, std::span<const std::uint8_t> pairs, std::size_t first,
                std::span<std::uint8_t> out) noexcept {
  constexpr std::size_t bytes = NormalTables::block / 2;
  draw(words, pairs, first * bytes, out);
  for (std::size_t begin = 0; begin < out.size(); begin += bytes) {
    const std::uint64_t word = peaks[first + begin / bytes];
    const std::size_t element = (word >> 32U) * 2 * std::min(bytes, out.size() - begin) >> 32U;
    const unsigned code = F::ascending[(word & 1U) != 0 ? 15 : 0], shift = element % 2 == 0 ? 4 : 0;
    std::uint8_t& byte = out[begin + element / 2];
    byte = static_cast<std::uint8_t>((byte & 0xfU << (4 - shift)) | code << shift);
  }
}

}  // namespace mllama::detail
