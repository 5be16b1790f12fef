// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <span>
#include <type_traits>

#include <mllama/core/context.hpp>
#include <mllama/core/encode.hpp>
#include <mllama/core/format.hpp>
#include <mllama/core/tensor.hpp>
#include <mllama/kernels/matmul.hpp>
#include <mllama/layers/linear.hpp>

/// The largest outputs of a linear layer, exactly, without reading all of its weights.

namespace mllama {

/// What stands for a logit that is certainly not among the largest.
inline constexpr float not_a_candidate = -std::numeric_limits<float>::infinity();

namespace detail {

/// The back end that multiplies a screen: with activations of 14 bits, because not every processor multiplies bytes in float32 as fast
/// as it reads them.
template <class B>
struct ForScreen {
  using type = B;
};
template <class Arch, class Compute>
struct ForScreen<cpu<Arch, Compute>> {
  using type = cpu<Arch, Int16>;
};

/// Whether this context multiplies float weights in float32 or better, whatever it does with quantised ones: the bound is one of that
/// arithmetic. Others are not known here.
template <class Ctx>
[[nodiscard]] bool multiplies_floats_in_float32([[maybe_unused]] const Ctx& ctx) {
  using B = typename Ctx::backend;
  if constexpr (std::same_as<B, reference>) {
    return true;
  } else if constexpr (!requires { typename B::compute; }) {
    return false;
  } else if constexpr (std::same_as<typename B::compute, AnyPrecision>) {
    const Precision precision = ctx.precision();
    return precision == Precision::f32 || precision == Precision::int16 || precision == Precision::int8;
  } else {
    using Compute = typename B::compute;
    return std::same_as<Compute, F32> || std::same_as<Compute, Int16> || std::same_as<Compute, Int8> ||
           std::same_as<Compute, LLMInt8>;
  }
}

/// A float that is not below a value of at least 0, or NaN.
[[nodiscard]] inline float rounded_up(double value) noexcept {
  if (value > double{std::numeric_limits<float>::max()}) return std::numeric_limits<float>::infinity();
  const auto nearest = static_cast<float>(value);
  return double{nearest} < value ? std::nextafter(nearest, std::numeric_limits<float>::infinity()) : nearest;
}
/// The same as bfloat16: the next one where bits are cut off.
[[nodiscard]] inline std::uint16_t rounded_up_to_bfloat16(double value) noexcept {
  const auto bits = std::bit_cast<std::uint32_t>(rounded_up(value));
  return static_cast<std::uint16_t>((bits >> 16U) + ((bits & 0xffffU) != 0 ? 1U : 0U));
}

/// A length that is not below the Euclidean one of what `value(i)` are, i < count: a little more than all roundings of the sum.
[[nodiscard]] double length_of(std::size_t count, auto&& value) {
  constexpr std::size_t lanes = 8;
  std::array<double, lanes> sums{};
  std::size_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    for (std::size_t lane = 0; lane < lanes; ++lane) sums[lane] += value(i + lane) * value(i + lane);
  }
  for (; i < count; ++i) sums[0] += value(i) * value(i);
  double sum = 0;
  for (const double part : sums) sum += part;
  return std::sqrt(sum) * (1 + 0x1p-30);
}

}  // namespace detail

/// A linear layer (`lm_head`) whose largest outputs are computed in two stages: a *screen* of one byte a weight gives every row of W an
/// interval that its product certainly lies in; only rows that may be among the `candidates` largest are read and multiplied, by the
/// very kernel that multiplies all of them. Those outputs have the same bits as the layer's own, ties included; all others are
/// `not_a_candidate`. Refers to the layer, which must outlive it and keep its weights.
///
/// Where the bound does not hold or does not pay, the outputs are those of the layer, all of them: weights that are not of a float
/// format or have changes of low rank at present, weights or activations that are NaN, infinite, or so large that sums might become it,
/// too many candidates, or a back end that multiplies float weights in another arithmetic.
///
///     const ScreenedHead head(model.language_model.lm_head, ctx);
///     session.screen(head);
///
/// Costs:   In + In / 32 + 8 bytes a row beside the weights (0.54 GB for the 11B model, which must be in memory, too), and one pass over
///          the weights to make them. A product reads these, and the candidates.
///
/// The bound, for a row w, activations x, n = In, u = 2^-24. The screen's weights are q = code · scale / 127. In exact numbers
///     |w·x - q·x| = |Σ over blocks of 64 of (w - q)·x| <= Σ ‖w - q‖ ‖x‖, block by block (Cauchy and Schwarz).
/// The norms ‖w - q‖ are stored, rounded up; the sum is a product with the weights' kernels, too, of numbers that are not negative.
/// Both computed products are sums of n numbers in some order, in which no number is rounded more often than n + 16 times: once as a
/// product, by all additions to it, and as part of a decoded weight. So each differs from the exact one by at most
/// γ Σ|w||x| <= γ ‖w‖ ‖x‖, γ = m u / (1 - m u), m = n + 16 (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1), and the
/// same with q, for which the larger norm of the two is taken. What results below 2^-126 lose, even if the processor takes them for
/// zeros, is below n 2^-120 (1 + ‖w‖) (1 + ‖x‖). The screen's product may round activations to integers, in blocks of 64: by at most
/// half of their step, largest / 8191, and some roundings of it, or, where all of a block are smaller, by 2^-100. That is a vector e with
/// |q·e| <= ‖q‖ ‖e‖. A few u more of each term cover the roundings of the bound itself.
template <WeightFormat Format, int In, int Out>
class ScreenedHead {
 public:
  using Head = Linear<Format, In, Out>;

  /// Costs:  reads all weights once
  template <class Ctx>
  ScreenedHead(const Linear<Format, In, Out>& head, Ctx& ctx) : head_(&head) {
    with_format(head.weight.weights, [&]<class F>(const Weights<F>& weights) {
      if constexpr (DenseFormat<F>) {
        if (weights.loaded()) make(weights, ctx);
      }
    });
  }

  /// Outputs of rows of x, in memory of the caller's: y (rows, Out). At least those not below the `candidates`-th largest are exact, and
  /// those so little below it (2^-20 of its magnitude) that another rounding, of a division say, might make them equal.
  template <class X, class Ctx>
  void into(const X& x, std::size_t candidates, View<float, row_axis<X>, Dim<Out>> y, Ctx& ctx) const {
    static_assert(In == feature_count<X>, "ScreenedHead<Format, In, Out>: the last axis of x must have length In");
    for (std::size_t r = 0; r < x.rows(); ++r) {
      const auto from = x.view().slice(r, 1);
      const auto to = y.slice(r, 1);
      if (!screened(from, candidates, to.flat(), ctx)) head_->into(from, to, ctx);
    }
  }

  /// Intervals that the outputs of one row of x lie in.
  /// Shapes:   x (1, In) -> lower (Out), upper (Out)
  /// Returns:  false if the bound does not hold; lower and upper mean nothing then.
  template <class X, class Ctx>
  [[nodiscard]] bool intervals(const X& x, std::span<float> lower, std::span<float> upper, Ctx& ctx) const {
    static_assert(In == feature_count<X>, "ScreenedHead<Format, In, Out>: the last axis of x must have length In");
    if (!usable_ || is_changed() || !detail::multiplies_floats_in_float32(ctx)) return false;
    auto lengths = ctx.template tensor<float, Rows, Dim<static_cast<int>(blocks)>>({1});
    const std::span<const float> values = x.view().flat();
    double squared_error = 0;
    for (std::size_t b = 0; b < blocks; ++b) {
      const std::size_t first = b * block;
      const auto some = values.subspan(first, std::min(block, columns - first));
      lengths.data()[b] = detail::rounded_up(detail::length_of(some.size(), [&](std::size_t i) { return double{some[i]}; }));
      const double error = half_step * double{detail::largest_magnitude(some)} + 0x1p-100;
      squared_error += static_cast<double>(block) * error * error;
    }
    const double length = detail::length_of(blocks, [&](std::size_t b) { return double{lengths.data()[b]}; });
    if (!(length <= largest_norm && length * double{largest_} <= largest_norm)) return false;

    using Screening = typename detail::ForScreen<typename Ctx::backend>::type;
    const Weights<Int8> screen{codes_.data(), rows, columns, scales_.data()};
    const Weights<BF16> residuals{residuals_.data(), rows, blocks};
    kernels::matmul_body(Screening{}, ctx, Matrix<const float>(x), screen, {}, Matrix<float>{upper.data(), 1, rows, rows});
    kernels::matmul_body(Screening{}, ctx, Matrix<const float>(lengths), residuals, {}, Matrix<float>{lower.data(), 1, rows, rows});
    const float of_residual = detail::rounded_up(1 + 2 * gamma(blocks + 16));
    const float of_norm =
        detail::rounded_up((2 * gamma(columns + 16) + 8 * unit) * length + lost * (1 + length) + std::sqrt(squared_error));
    const float of_zero = detail::rounded_up(lost * (1 + length));
    ctx.parallel(rows, 1024, [&](std::size_t begin, std::size_t end, unsigned) {
      for (std::size_t r = begin; r < end; ++r) {
        const float radius = (lower[r] * of_residual + norms_.data()[r] * of_norm + of_zero) * (1 + 0x1p-20F);
        lower[r] = upper[r] - radius;
        upper[r] += radius;
      }
    });
    return true;
  }

  /// Bytes of the screen.
  [[nodiscard]] std::size_t bytes() const noexcept {
    return codes_.size() + residuals_.size() * sizeof(std::uint16_t) + (scales_.size() + norms_.size()) * sizeof(float);
  }

 private:
  static constexpr std::size_t columns = static_cast<std::size_t>(In), rows = static_cast<std::size_t>(Out);
  static constexpr std::size_t block = kernels::isa::slot, blocks = (columns + block - 1) / block;
  /// Rows whose intervals are compared as one, before those of single rows are looked at.
  static constexpr std::size_t group = 16, groups = (rows + group - 1) / group;
  /// Rows that are computed exactly at a time, and at most. More are not worth it: all of W is read faster in its order.
  static constexpr std::size_t batch = std::min<std::size_t>(128, rows), most = rows / 4;
  /// Of a norm of a row or of x, and of their product: no sum leaves the range of float.
  static constexpr double largest_norm = 0x1p100;
  static constexpr float smallest_scale = 0x1p-100F;
  /// Of activations as integers, a share of the largest.
  static constexpr double half_step = 0.51 / kernels::isa::largest_word;

  static constexpr double unit = 0x1p-24, lost = static_cast<double>(columns) * 0x1p-120;
  static constexpr double gamma(std::size_t roundings) {
    return static_cast<double>(roundings) * unit / (1 - static_cast<double>(roundings) * unit);
  }

  template <DenseFormat F, class Ctx>
  void make(const Weights<F>& weights, Ctx& ctx) {
    codes_ = decltype(codes_)({rows});
    residuals_ = decltype(residuals_)({rows});
    scales_ = decltype(scales_)({rows});
    norms_ = decltype(norms_)({rows});
    auto decoded = ctx.template tensor<float, Rows, Dim<In>>({ctx.threads().size()});
    ctx.parallel(rows, 16, [&](std::size_t begin, std::size_t end, unsigned worker) {
      const std::span<float> row = decoded[worker];
      for (std::size_t r = begin; r < end; ++r) {
        weights.decode(r * columns, row);
        make_row(row, r);
      }
    });
    largest_ = 0;
    for (const float norm : norms_.flat()) {
      if (!(double{norm} <= largest_norm)) return;
      largest_ = std::max(largest_, norm);
    }
    usable_ = true;
  }

  void make_row(std::span<const float> row, std::size_t r) {
    float largest = 0;
    for (const float w : row) largest = std::max(largest, std::abs(w));
    const bool is_zero = !(largest >= smallest_scale) || !std::isfinite(largest);
    const float scale = is_zero ? 0.0F : largest, inverse = is_zero ? 0.0F : 127 / largest;
    const double step = double{scale} * double{Int8::step};
    std::int8_t* const codes = codes_[r].data();
    constexpr float round = 0x1.8p23F;  // added to a small number, leaves the nearest integer in the lowest bits
    for (std::size_t i = 0; i < columns; ++i) {
      const std::int32_t code = std::bit_cast<std::int32_t>(row[i] * inverse + round) - std::bit_cast<std::int32_t>(round);
      codes[i] = static_cast<std::int8_t>(std::clamp(code, -127, 127));
    }
    for (std::size_t b = 0; b < blocks; ++b) {
      const std::size_t first = b * block;
      const double residual = detail::length_of(std::min(block, columns - first), [&](std::size_t i) {
        return double{row[first + i]} - step * static_cast<double>(codes[first + i]);
      });
      residuals_[r][b] = detail::rounded_up_to_bfloat16(residual);
    }
    const double norm = detail::length_of(columns, [&](std::size_t i) { return double{row[i]}; });
    const double of_codes = detail::length_of(columns, [&](std::size_t i) { return step * static_cast<double>(codes[i]); });
    scales_.data()[r] = scale;
    norms_.data()[r] = std::isnan(norm) ? std::numeric_limits<float>::infinity() : detail::rounded_up(std::max(norm, of_codes));
  }

  /// Whether the layer adds something to its product: an adapter.
  [[nodiscard]] bool is_changed() const {
    bool any = false;
    if constexpr (requires { head_->branches; }) head_->branches.for_each_active([&](const auto&) { any = true; });
    return any;
  }

  /// False if the layer's own product is wanted.
  template <class X, class Ctx>
  bool screened(const X& x, std::size_t candidates, std::span<float> y, Ctx& ctx) const {
    if (candidates == 0 || candidates > std::min(groups, most)) return false;
    auto lower = ctx.template tensor<float, Rows>({rows});
    if (!intervals(x, lower.flat(), y, ctx)) return false;
    // From here on y is the upper end of each interval.
    auto lowest = ctx.template tensor<float, Rows>({groups});
    auto highest = ctx.template tensor<float, Rows>({groups});
    ctx.parallel(groups, 64, [&](std::size_t begin, std::size_t end, unsigned) {
      for (std::size_t g = begin; g < end; ++g) {
        float low = not_a_candidate, high = not_a_candidate;
        for (std::size_t r = g * group; r < std::min(rows, (g + 1) * group); ++r) {
          low = std::max(low, lower.data()[r]);
          high = std::max(high, y[r]);
        }
        lowest.data()[g] = low;
        highest.data()[g] = high;
      }
    });

    // So many rows, of different groups, are not below this: nor is the last of so many largest.
    const auto last = lowest.data() + (candidates - 1);
    std::nth_element(lowest.data(), last, lowest.data() + groups, std::greater<>{});
    const double least = double{*last} - std::abs(double{*last}) * margin - 0x1p-120;
    auto found = ctx.template tensor<std::uint32_t, Rows>({most});
    std::size_t count = 0;
    for (std::size_t g = 0; g < groups; ++g) {
      if (double{highest.data()[g]} < least) continue;
      for (std::size_t r = g * group; r < std::min(rows, (g + 1) * group); ++r) {
        if (double{y[r]} < least) continue;
        if (count == most) return false;
        found.data()[count++] = static_cast<std::uint32_t>(r);
      }
    }
    std::ranges::fill(y, not_a_candidate);
    with_format(head_->weight.weights, [&]<class F>(const Weights<F>& weights) {
      if constexpr (DenseFormat<F>) multiply(Matrix<const float>(x), weights, std::span(found.data(), count), y, ctx);
    });
    return true;
  }

  /// The products of some rows of W. They are copied side by side: a row's product does not depend on the rows around it.
  template <DenseFormat F, class Ctx>
  static void multiply(Matrix<const float> x, const Weights<F>& weights, std::span<const std::uint32_t> of, std::span<float> y,
                       Ctx& ctx) {
    auto copies = ctx.template tensor<typename F::stored, Rows, Dim<In>>({batch});
    auto products = ctx.template tensor<float, Rows>({batch});
    for (; !of.empty(); of = of.subspan(std::min(batch, of.size()))) {
      const std::size_t some = std::min(batch, of.size());
      ctx.parallel(some, 8, [&](std::size_t begin, std::size_t end, unsigned) {
        for (std::size_t i = begin; i < end; ++i) std::copy_n(weights.data + of[i] * columns, columns, copies[i].data());
      });
      kernels::matmul(ctx, x, Weights<F>{copies.data(), some, columns}, {}, Matrix<float>{products.data(), 1, some, some});
      for (std::size_t i = 0; i < some; ++i) y[of[i]] = products.data()[i];
    }
  }

  static constexpr double margin = 0x1p-20;

  const Head* head_;
  bool usable_ = false;
  float largest_ = 0;                                                     ///< of norms_
  Tensor<std::int8_t, Rows, Dim<In>> codes_;                              ///< of the screen
  Tensor<std::uint16_t, Rows, Dim<static_cast<int>(blocks)>> residuals_;  ///< bfloat16
  Tensor<float, Rows> scales_, norms_;                                    ///< of rows of the screen; of W or of it
};

}  // namespace mllama
