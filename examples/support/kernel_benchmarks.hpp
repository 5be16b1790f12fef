// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <mllama/core/context.hpp>
#include <mllama/kernels/activation.hpp>
#include <mllama/kernels/attention.hpp>
#include <mllama/kernels/embedding.hpp>
#include <mllama/kernels/matmul.hpp>
#include <mllama/kernels/norm.hpp>
#include <mllama/kernels/rope.hpp>
#include <mllama/kernels/softmax.hpp>
#include <mllama/layers/visibility.hpp>

#include "measurements.hpp"
#include "probes.hpp"

/// Every kernel alone, at the shapes of a model.

namespace support {

/// Reproducible operands.
[[nodiscard]] inline std::vector<float> normals(std::size_t count, unsigned seed = 1) {
  std::vector<float> numbers(count);
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  for (float& number : numbers) number = normal(random);
  return numbers;
}

/// Distance of what was computed from what it should be, relative to the norm of the latter.
class RelativeError {
 public:
  void add(double exact, double computed) {
    error_ += (exact - computed) * (exact - computed);
    square_ += exact * exact;
  }
  [[nodiscard]] double value() const { return square_ > 0 ? std::sqrt(error_ / square_) : 0; }

 private:
  double error_ = 0, square_ = 0;
};

/// Measures kernels with one context. Each function gives a line of the table; shares are of reading memory or of the peak of the
/// arithmetic, whichever is nearer to its limit.
template <class Ctx>
class KernelBenchmarks {
 public:
  KernelBenchmarks(Ctx& ctx, const Limits& limits, double seconds) : ctx_(ctx), limits_(limits), seconds_(seconds) {}

  /// `rows` rows times one of some matrices of the same shape after the other, so that they come from memory as in a model.
  template <class F>
  [[nodiscard]] Measurement product(const std::vector<const mllama::Weights<F>*>& matrices, std::size_t rows) {
    return mllama::with_format(*matrices.front(), [&]<class G>(const mllama::Weights<G>& weights) {
      const std::size_t in = weights.columns, out = weights.rows;
      const std::vector<float> x = normals(rows * in);
      std::vector<float> y(rows * out);
      const auto multiply = [&](const mllama::Weights<F>& w) {
        mllama::kernels::matmul(ctx_, mllama::Matrix<const float>{x.data(), rows, in, in}, w, {},
                                mllama::Matrix<float>{y.data(), rows, out, out});
      };
      std::size_t next = 0;
      const Timing t = time([&] { multiply(*matrices[next++ % matrices.size()]); });
      multiply(*matrices.front());
      RelativeError error;
      std::vector<float> decoded(in);
      for (std::size_t o = 0; o < out; o += std::max<std::size_t>(1, out / 16)) {
        weights.decode(o * in, decoded);
        for (std::size_t r = 0; r < rows; r += 1 + rows / 8) {
          double exact = 0;
          for (std::size_t i = 0; i < in; ++i) exact += double{x[r * in + i]} * double{decoded[i]};
          error.add(exact, y[r * out + o]);
        }
      }
      const double moved =
          static_cast<double>(weights.bytes()) + static_cast<double>(sizeof(float)) * static_cast<double>(x.size() + y.size());
      const bool floats = mllama::DenseFormat<G> && ctx_.precision() != mllama::Precision::bf16;
      const auto arithmetic = floats ? mllama::Precision::f32 : ctx_.precision();
      return line(mllama::concat("mm ", rows, 'x', in, 'x', out, ' ', G::name), t, 2.0 * static_cast<double>(rows * in * out),
                  moved, arithmetic, error.value());
    });
  }

  /// Attention of `rows` rows to `keys` keys; causal: row r of the last `rows` positions sees the keys up to its own.
  [[nodiscard]] Measurement attention(std::string_view name, const mllama::kernels::Heads& heads, std::size_t rows,
                                      std::size_t keys, bool causal) {
    const std::size_t width = heads.heads * heads.head_dim, kv_width = heads.kv_heads * heads.head_dim;
    const std::vector<float> q = normals(rows * width, 1), k = normals(keys * kv_width, 2), v = normals(keys * kv_width, 3);
    std::vector<float> out(q.size());
    const mllama::kernels::KeyBlock block{k.data(), v.data(), keys};
    const mllama::VisibilityTables visible =
        causal ? mllama::see_the_past(keys - rows, rows, 0, ctx_) : mllama::see_everything(rows, {&block, 1}, ctx_);
    const Timing t = time([&] {
      mllama::kernels::attention(ctx_, heads, mllama::Matrix<const float>{q.data(), rows, width, width}, {&block, 1}, visible,
                                 mllama::Matrix<float>{out.data(), rows, width, width});
    });
    RelativeError error;
    std::vector<double> weight(keys);
    for (std::size_t r = 0; r < rows; r += 1 + rows / 4) {
      const std::size_t seen = causal ? keys - rows + r + 1 : keys;
      for (std::size_t h = 0; h < heads.heads; h += 1 + heads.heads / 4) {
        const std::size_t at = h / (heads.heads / heads.kv_heads) * heads.head_dim;
        double sum = 0;
        for (std::size_t j = 0; j < seen; ++j) {
          double dot = 0;
          for (std::size_t i = 0; i < heads.head_dim; ++i)
            dot += double{q[r * width + h * heads.head_dim + i]} * double{k[j * kv_width + at + i]};
          weight[j] = std::exp(dot / std::sqrt(static_cast<double>(heads.head_dim)));
          sum += weight[j];
        }
        for (std::size_t i = 0; i < heads.head_dim; ++i) {
          double exact = 0;
          for (std::size_t j = 0; j < seen; ++j) exact += weight[j] * double{v[j * kv_width + at + i]};
          error.add(exact / sum, out[r * width + h * heads.head_dim + i]);
        }
      }
    }
    const bool words = rows >= mllama::kernels::isa::fewest_word_rows && ctx_.precision() != mllama::Precision::f32 &&
                       ctx_.instruction_set() >= mllama::InstructionSet::avx2 &&
                       ctx_.instruction_set() <= mllama::InstructionSet::avx512_bf16;
    const double pairs = static_cast<double>(rows) * (static_cast<double>(keys) - (causal ? static_cast<double>(rows - 1) / 2 : 0));
    const auto moved = static_cast<double>(sizeof(float) * (q.size() + out.size() + k.size() + v.size()));
    return line(mllama::concat("attn ", name, ' ', rows, 'x', keys), t, 4 * pairs * static_cast<double>(width), moved,
                words ? mllama::Precision::int16 : mllama::Precision::f32, error.value());
  }

  [[nodiscard]] Measurement rms_norm(std::size_t width) {
    const std::vector<float> weight = normals(width, 2);
    return elementwise(
        "rms_norm", width, 4, [&](auto x, auto y) { mllama::kernels::rms_norm(ctx_, x, weight.data(), 1e-5F, y); },
        [&](std::span<const float> x, std::size_t i) {
          double squares = 0;
          for (const float value : x) squares += double{value} * double{value};
          return double{x[i]} / std::sqrt(squares / static_cast<double>(width) + 1e-5) * double{weight[i]};
        });
  }
  [[nodiscard]] Measurement layer_norm(std::size_t width) {
    const std::vector<float> weight = normals(width, 2), bias = normals(width, 3);
    return elementwise(
        "layer_norm", width, 7, [&](auto x, auto y) { mllama::kernels::layer_norm(ctx_, x, weight.data(), bias.data(), 1e-5F, y); },
        [&](std::span<const float> x, std::size_t i) {
          double mean = 0, variance = 0;
          for (const float value : x) mean += double{value} / static_cast<double>(width);
          for (const float value : x) variance += (double{value} - mean) * (double{value} - mean) / static_cast<double>(width);
          return (double{x[i]} - mean) / std::sqrt(variance + 1e-5) * double{weight[i]} + double{bias[i]};
        });
  }
  [[nodiscard]] Measurement softmax(std::size_t width) {
    return elementwise(
        "softmax", width, 5, [&](auto, auto y) { mllama::kernels::softmax(ctx_, y); },
        [](std::span<const float> x, std::size_t i) {
          double sum = 0;
          for (const float value : x) sum += std::exp(double{value});
          return std::exp(double{x[i]}) / sum;
        });
  }
  template <class Function>
  [[nodiscard]] Measurement activation(std::size_t width) {
    return elementwise(
        Function::key, width, 10, [&](auto, auto y) { mllama::kernels::activate<Function>(ctx_, y); },
        [](std::span<const float> x, std::size_t i) { return Function::value(double{x[i]}); });
  }
  /// Gate and up are the same numbers.
  template <class Function>
  [[nodiscard]] Measurement gated_activation(std::size_t width) {
    return elementwise(
        mllama::concat(Function::key, " x up"), width, 11,
        [&](auto x, auto y) { mllama::kernels::activate_and_multiply<Function>(ctx_, y, x); },
        [](std::span<const float> x, std::size_t i) { return Function::value(double{x[i]}) * double{x[i]}; });
  }
  [[nodiscard]] Measurement rope(std::size_t width, std::size_t head_dim) {
    const std::size_t rows = rows_of(width), half = head_dim / 2;
    std::vector<float> angles(rows * head_dim);
    for (std::size_t r = 0; r < rows; ++r) {
      for (std::size_t i = 0; i < half; ++i) {
        const double angle = static_cast<double>((r * 31 + i * 7) % 100) / 16;
        angles[r * head_dim + i] = static_cast<float>(std::cos(angle));
        angles[r * head_dim + half + i] = static_cast<float>(std::sin(angle));
      }
    }
    return elementwise(
        "rope", width, 3,
        [&](auto, auto y) {
          mllama::kernels::rope(ctx_, mllama::Matrix<const float>{angles.data(), rows, head_dim, head_dim}, y);
        },
        [&](std::span<const float> x, std::size_t i) {  // of row 0
          const std::size_t element = i % head_dim, pair = element % half, head = i - element;
          const double cosine = angles[pair], sine = angles[half + pair], a = x[head + pair], b = x[head + half + pair];
          return element < half ? a * cosine - b * sine : b * cosine + a * sine;
        });
  }
  /// Rows of a stored table, all over it.
  template <class F>
  [[nodiscard]] Measurement embedding(const mllama::Weights<F>& any) {
    return mllama::with_format(any, [&]<class G>(const mllama::Weights<G>& table) {
      constexpr std::size_t rows = 512;
      std::vector<std::int32_t> ids;
      for (std::size_t i = 0; i < rows; ++i) ids.push_back(static_cast<std::int32_t>(i * 7919 % table.rows));
      std::vector<float> out(rows * table.columns);
      const mllama::Matrix<float> y{out.data(), rows, table.columns, table.columns};
      const Timing t = time([&] { mllama::kernels::embed(ctx_, ids, table, y); });
      RelativeError error;
      std::vector<float> decoded(table.columns);
      for (std::size_t r = 0; r < rows; r += 61) {
        table.decode(static_cast<std::size_t>(ids[r]) * table.columns, decoded);
        for (std::size_t i = 0; i < table.columns; ++i) error.add(decoded[i], y[r][i]);
      }
      const double stored = static_cast<double>(table.bytes()) / static_cast<double>(table.rows) * rows;
      const double moved = stored + static_cast<double>(sizeof(float) * out.size());
      return line(mllama::concat("embed ", rows, 'x', table.columns, ' ', G::name), t, 0, moved, mllama::Precision::f32,
                  error.value());
    });
  }

 private:
  Timing time(const std::function<void()>& run) const { return time_of(seconds_, run); }

  [[nodiscard]] Measurement line(std::string bench, const Timing& t, double operations, double bytes, mllama::Precision arithmetic,
                                 double error) const {
    const double peak = limits_.operations(arithmetic), read = bytes / t.seconds / limits_.read;
    const double computed = peak > 0 ? operations / t.seconds / peak : 0;
    const bool reads = read >= computed;
    const std::string_view peak_name = arithmetic == mllama::Precision::f32     ? "f32"
                                       : arithmetic == mllama::Precision::int16 ? "int16"
                                       : arithmetic == mllama::Precision::bf16  ? "bf16"
                                                                                : "int8";
    const bool counts_bytes = operations < 8 * bytes;
    return {.bench = std::move(bench),
            .value = (counts_bytes ? bytes : operations) / t.seconds / 1e9,
            .unit = counts_bytes ? "GB/s" : "GF/s",
            .share = reads ? read : computed,
            .limit = std::string(reads ? "read" : peak_name),
            .error = error,
            .spread = t.spread,
            .operations = operations / t.seconds,
            .bytes = bytes / t.seconds};
  }

  /// So many that the caches of most processors do not hold them.
  static std::size_t rows_of(std::size_t width) { return std::max<std::size_t>(1, (std::size_t{16} << 20U) / width); }

  /// A kernel that passes over rows once, from x to y, or over y alone, which is a copy of x each time. `operations`: per element,
  /// roughly. `exact(row, i)` is element i of the result for a row.
  template <class Run, class Exact>
  [[nodiscard]] Measurement elementwise(std::string_view name, std::size_t width, double operations, Run&& run, Exact&& exact) {
    const std::size_t rows = rows_of(width);
    const std::vector<float> x = normals(rows * width);
    std::vector<float> y = x;
    const mllama::Matrix<const float> from{x.data(), rows, width, width};
    const mllama::Matrix<float> to{y.data(), rows, width, width};
    const Timing t = time_of(
        seconds_, [&] { run(from, to); }, [&] { y = x; });
    RelativeError error;
    for (std::size_t i = 0; i < width; i += 1 + width / 64) error.add(exact(std::span(x).first(width), i), y[i]);
    const auto elements = static_cast<double>(x.size());
    return line(mllama::concat(name, ' ', rows, 'x', width), t, operations * elements, 2 * sizeof(float) * elements,
                mllama::Precision::f32, error.value());
  }

  Ctx& ctx_;
  const Limits& limits_;
  double seconds_;
};

}  // namespace support
