// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include <mllama/core/context.hpp>
#include <mllama/core/format.hpp>
#include <mllama/kernels/matmul.hpp>
#include <mllama/kernels/simd/decode.hpp>
#include <mllama/layers/embedding.hpp>
#include <mllama/layers/linear.hpp>

/// Low-rank adaptation: changes `W + s · b · a` of matrices that stay as they are stored. `LoRA<Format>` in the place of a format
/// makes a layer one that takes such changes while it runs: `Linear<LoRA<NF4>, 4096, 4096>`.
/// Source:  Hu et al. 2021 (arXiv:2106.09685); DoRA: Liu et al. 2024 (arXiv:2402.09353); both as PEFT computes them

namespace mllama {

/// Weights in `Format`, and changes of low rank beside them.
template <class Format>
struct LoRA {};

/// They are stored as without the changes, which are no parameters of a checkpoint.
template <class F>
struct Weights<LoRA<F>> : Weights<F> {};

/// A change of a matrix W (rows, columns) to `W + scale · b · a`; with a magnitude, the rows of this sum get that length (DoRA).
/// Refers to the numbers of an adapter.
struct LowRank {
  Weights<F32> a;                    ///< (rank, columns)
  Weights<F32> b;                    ///< (rows, rank)
  const float* bias = nullptr;       ///< (rows), added to `b · a · x` before it is scaled; or none
  const float* magnitude = nullptr;  ///< (rows), or none
  double scale = 1;

  /// The scale of a change that is to be `factor` times as strong.
  [[nodiscard]] float scale_times(double factor) const noexcept { return static_cast<float>(scale * factor); }
};

/// A change, `factor` times as strong as its adapter says.
struct ScaledLowRank {
  LowRank change;
  double factor = 1;
};

namespace detail {

/// `x += scale ·` (row `row` of b · a).
inline void add_change_of_row(const LowRank& change, std::size_t row, float scale, std::span<float> x) noexcept {
  const float* const b = change.b.data + row * change.b.columns;
  for (std::size_t j = 0; j < change.a.rows; ++j) {
    const float factor = scale * b[j];
    const float* const a = change.a.data + j * change.a.columns;
    for (std::size_t i = 0; i < x.size(); ++i) x[i] += factor * a[i];
  }
}

inline double sum_of_squares(std::span<const float> x) noexcept {
  std::array<double, 8> lanes{};  // sums that do not wait for each other
  std::size_t i = 0;
  for (; i + lanes.size() <= x.size(); i += lanes.size()) {
    for (std::size_t lane = 0; lane < lanes.size(); ++lane) lanes[lane] += double{x[i + lane]} * double{x[i + lane]};
  }
  double sum = 0;
  for (; i < x.size(); ++i) sum += double{x[i]} * double{x[i]};
  for (const double lane : lanes) sum += lane;
  return sum;
}

/// What gives a row of this squared length the length `magnitude`. A row of zeros stays one.
inline float factor_to_magnitude(float magnitude, double squared_length) noexcept {
  return squared_length > 0 ? static_cast<float>(double{magnitude} / std::sqrt(squared_length)) : 0;
}

}  // namespace detail

/// Makes rows [first, first + rows.rows) of a matrix W, decoded, and the same elements of a linear's bias, those of the changed linear.
/// Changes are made in their order; the magnitude of one is the length of a row of W with this change alone.
/// Shapes:  rows (some of the rows of W, columns of W);  bias (as many), or empty: then biases of the changes are left out.
/// Costs:   rank · columns multiplications per row and change. May be called by several threads at once.
inline void merge(std::span<const ScaledLowRank> changes, std::size_t first, Matrix<float> rows, std::span<float> bias = {}) {
  std::vector<float> original(rows.width), alone(rows.width);
  for (std::size_t r = 0; r < rows.rows; ++r) {
    const std::span<float> row = rows.row(r);
    std::ranges::copy(row, original.begin());
    float offset = 0;  // of the bias from that of the base
    for (const auto& [change, times] : changes) {
      const float scale = change.scale_times(times);
      detail::add_change_of_row(change, first + r, scale, row);
      if (change.bias != nullptr) offset += scale * change.bias[first + r];
      if (change.magnitude == nullptr) continue;
      alone = original;
      detail::add_change_of_row(change, first + r, scale, alone);
      const float factor = detail::factor_to_magnitude(change.magnitude[first + r], detail::sum_of_squares(alone));
      for (float& weight : row) weight *= factor;
      offset *= factor;
    }
    if (!bias.empty()) bias[r] += offset;
  }
}

/// Squares and product of a row of W and the same row of D = b · a: the length of the row of `W + s · D`, whatever s is.
struct RowSquares {
  float weight = 0, product = 0, change = 0;

  [[nodiscard]] double squared_length(double s) const noexcept {
    return double{weight} + 2 * s * double{product} + s * s * double{change};
  }
};

/// One `RowSquares` for each row of W.
/// Costs:  decodes W twice; memory for a row per thread and for (rank, rows)
template <class Ctx, WeightFormat F>
[[nodiscard]] std::vector<RowSquares> row_squares(Ctx& ctx, const Weights<F>& w, const LowRank& change) {
  const std::size_t rows = change.b.rows, columns = change.a.columns, rank = change.a.rows;
  std::vector<RowSquares> squares(rows);
  const Matrix<const float> a{change.a.data, rank, columns};
  auto a_w = ctx.template tensor<float, Rows, Rows>({rank, rows});  // a · Wᵀ
  auto a_a = ctx.template tensor<float, Rows, Rows>({rank, rank});  // a · aᵀ
  kernels::matmul(ctx, a, w, {}, a_w);
  kernels::matmul(ctx, a, change.a, {}, a_a);
  auto decoded = ctx.template tensor<float, Rows, Rows>({ctx.threads().size(), columns});
  with_format(w, [&](const auto& weights) {
    ctx.parallel(rows, 16, [&](std::size_t begin, std::size_t end, unsigned worker) {
      const std::span<float> row = decoded[worker];
      for (std::size_t r = begin; r < end; ++r) {
        kernels::detail::decode_run(weights, r * columns, columns, row.data());
        const float* const b = change.b.data + r * rank;
        double product = 0, square = 0;
        for (std::size_t j = 0; j < rank; ++j) {
          product += double{b[j]} * double{a_w[j][r]};
          for (std::size_t k = 0; k < rank; ++k) square += double{b[j]} * double{a_a[j][k]} * double{b[k]};
        }
        squares[r] = {static_cast<float>(detail::sum_of_squares(row)), static_cast<float>(product), static_cast<float>(square)};
      }
    });
  });
  return squares;
}

/// How strongly an adapter works at present.
struct AdapterState {
  double factor = 1;
  bool on = true;
};

/// A change as part of a layer, beside those of other adapters.
struct LowRankBranch {
  LowRank change;
  const AdapterState* adapter = nullptr;
  std::vector<RowSquares> squares{};  ///< of a change with magnitude
  LowRankBranch* next = nullptr;

  [[nodiscard]] bool has_magnitude() const noexcept { return change.magnitude != nullptr; }
  [[nodiscard]] float scale() const noexcept { return change.scale_times(adapter->factor); }

  /// Stores `b · a · x + bias`, scaled, by way of an epilogue that adds.
  /// Costs:  rank · (rows + columns of W) multiplications per row of x
  template <class Ctx>
  void add(Ctx& ctx, Matrix<const float> x, kernels::Epilogue epilogue, Matrix<float> y) const {
    auto inner = ctx.template tensor<float, Rows, Rows>({x.rows, change.a.rows});
    kernels::matmul(ctx, x, change.a, {}, inner);
    epilogue.accumulate = true;
    epilogue.scale *= scale();
    epilogue.bias = change.bias;
    kernels::matmul(ctx, inner, change.b, epilogue, y);
  }

  /// Gives the rows of the matrix that y is the product of their magnitude.
  template <class Ctx>
  void rescale(Ctx& ctx, const float* bias, Matrix<float> y) const {
    const double s = scale();
    ctx.parallel(y.width, 64, [&](std::size_t begin, std::size_t end, unsigned) {
      std::array<float, 64> factors{}, offsets{};
      for (std::size_t c = begin; c < end; c += factors.size()) {
        const std::size_t count = std::min(factors.size(), end - c);
        for (std::size_t i = 0; i < count; ++i) {
          factors[i] = detail::factor_to_magnitude(change.magnitude[c + i], squares[c + i].squared_length(s));
          offsets[i] = bias == nullptr ? 0 : bias[c + i];
        }
        for (std::size_t r = 0; r < y.rows; ++r) {
          float* const some = y[r] + c;
          for (std::size_t i = 0; i < count; ++i) some[i] = offsets[i] + factors[i] * (some[i] - offsets[i]);
        }
      }
    });
  }
};

/// The branches of a layer, in the order in which they were attached. Refers to branches of others.
class LowRankBranches {
 public:
  void attach(LowRankBranch& branch) noexcept {
    LowRankBranch** end = &first_;
    while (*end != nullptr) end = &(*end)->next;
    *end = &branch;
  }
  [[nodiscard]] bool empty() const noexcept { return first_ == nullptr; }

  /// Calls `use` with each branch whose adapter is on.
  template <class Use>
  void for_each_active(Use&& use) const {
    for (const LowRankBranch* branch = first_; branch != nullptr; branch = branch->next) {
      if (branch->adapter->on) use(*branch);
    }
  }
  /// Whether they need the product that they change by itself: one of those that are on has a magnitude.
  [[nodiscard]] bool need_product() const {
    bool any = false;
    for_each_active([&](const LowRankBranch& branch) { any |= branch.has_magnitude(); });
    return any;
  }

  /// Makes `y = W · x + bias` what it is with the changes of W.
  template <class Ctx>
  void change(Ctx& ctx, Matrix<const float> x, const float* bias, Matrix<float> y) const {
    for_each_active([&](const LowRankBranch& branch) {
      branch.add(ctx, x, {}, y);
      if (branch.has_magnitude()) branch.rescale(ctx, bias, y);
    });
  }

 private:
  LowRankBranch* first_ = nullptr;
};

namespace detail {
/// Stores a product that has been computed before.
template <class Ctx>
void store(Ctx& ctx, Matrix<const float> product, const kernels::Epilogue& epilogue, Matrix<float> y) {
  ctx.parallel(y.rows, 1, [&](std::size_t begin, std::size_t end, unsigned) {
    for (std::size_t r = begin; r < end; ++r) {
      for (std::size_t c = 0; c < y.width; ++c) epilogue.store(product[r][c], r, c, y[r][c]);
    }
  });
}
}  // namespace detail

/// A linear that takes changes of low rank: what the linear without them computes, and the active branches, in float32 and in their
/// order. It has the parameters, keys and print-out of that linear.
/// Source:  peft.tuners.lora.Linear; with magnitudes, its variant DoRA
template <WeightFormat Format, int In, int Out, bool Bias>
struct Linear<LoRA<Format>, In, Out, Bias> : Linear<Format, In, Out, Bias> {
  using Plain = Linear<Format, In, Out, Bias>;
  LowRankBranches branches{};

  template <class X, class Ctx>
  [[nodiscard]] Tensor<float, row_axis<X>, Dim<Out>> operator()(const X& x, Ctx& ctx) const {
    auto y = Plain::operator()(x, ctx);
    branches.change(ctx, x, bias_data(), y);
    return y;
  }

  template <class X, class Ctx>
  void into(const X& x, View<float, row_axis<X>, Dim<Out>> y, Ctx& ctx) const {
    Plain::into(x, y, ctx);
    branches.change(ctx, x, bias_data(), y);
  }

  template <class X, class Ctx>
  void finish(const X& x, Matrix<float> y, Ctx& ctx) const {
    branches.change(ctx, x, bias_data(), y);
  }

  template <class X, class Ctx>
  void add(const X& x, const Residual<row_axis<X>, Out>& to, Ctx& ctx) const {
    if (branches.need_product()) {
      const auto y = (*this)(x, ctx);
      detail::store(ctx, y, to.epilogue(), to.y);
    } else {
      Plain::add(x, to, ctx);
      branches.for_each_active([&](const LowRankBranch& branch) { branch.add(ctx, x, to.epilogue(), to.y); });
    }
  }

 private:
  [[nodiscard]] const float* bias_data() const noexcept {
    if constexpr (Bias) {
      return this->bias.data();
    } else {
      return nullptr;
    }
  }
};

/// A table that takes changes of low rank without magnitudes.
/// Source:  peft.tuners.lora.Embedding
template <int Count, int N, WeightFormat Format>
struct Embedding<Count, N, LoRA<Format>> {
  using Plain = Embedding<Count, N, Format>;
  Parameter<Format, Count, N> weight{};
  int padding_index = -1;
  LowRankBranches branches{};

  static constexpr void visit(auto& self, auto&& member) { Plain::visit(self, member); }
  static std::string repr(const auto& self) { return Plain::repr(self); }

  template <RunTimeAxis Row, class Ctx>
  [[nodiscard]] Tensor<float, Row, Dim<N>> rows(std::span<const std::int32_t> ids, Ctx& ctx) const {
    auto y = Plain{weight, padding_index}.template rows<Row>(ids, ctx);
    branches.for_each_active([&](const LowRankBranch& branch) {
      ctx.parallel(ids.size(), 1, [&](std::size_t begin, std::size_t end, unsigned) {
        for (std::size_t r = begin; r < end; ++r) {
          detail::add_change_of_row(branch.change, static_cast<std::size_t>(ids[r]), branch.scale(), y[r]);
        }
      });
    });
    return y;
  }
};

}  // namespace mllama
