// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include <mllama/kernels/matmul.hpp>

/// The arithmetic of LLM.int8(), for comparisons with its reference: activations are quantised, too. The default arithmetic decodes
/// 8-bit weights and leaves activations as they are, which is more accurate.

namespace mllama {

/// Arithmetic of matrix products with 8-bit rows as bitsandbytes' `Linear8bitLt` does it; other formats are multiplied in float32.
/// `Context<cpu<arch::native, LLMInt8>>` computes with it.
struct LLMInt8 {
  static constexpr std::string_view name = "llm_int8";
};

}  // namespace mllama

namespace mllama::kernels {

namespace detail {

/// Activations as signed bytes with a scale per row, but for the columns that hold outliers.
template <class Ctx>
struct QuantizedActivations {
  Tensor<std::int8_t, Rows, Rows> codes;
  Tensor<float, Rows> scales;
  Tensor<std::uint32_t, Rows> outliers;  ///< columns, ascending
  std::size_t outlier_count = 0;

  QuantizedActivations(Ctx& ctx, Matrix<const float> x, float threshold)
      : codes(ctx.template tensor<std::int8_t, Rows, Rows>({x.rows, x.width})),
        scales(ctx.template tensor<float, Rows>({x.rows})),
        outliers(ctx.template tensor<std::uint32_t, Rows>({x.width})) {
    const auto is_outlier = [&](float half) { return threshold > 0 && !(std::abs(half) < threshold); };
    for (std::size_t k = 0; k < x.width; ++k) {
      bool any = false;
      for (std::size_t r = 0; r < x.rows; ++r) any |= is_outlier(to_half(x[r][k]));
      if (any) outliers.data()[outlier_count++] = static_cast<std::uint32_t>(k);
    }
    ctx.parallel(x.rows, 1, [&](std::size_t begin, std::size_t end, unsigned) {
      for (std::size_t r = begin; r < end; ++r) {
        float largest = 0;
        for (std::size_t k = 0; k < x.width; ++k) {
          const float half = to_half(x[r][k]);
          if (!is_outlier(half)) largest = std::max(largest, std::abs(half));
        }
        scales.data()[r] = largest;
        const float factor = largest > 0 ? 1 / largest * 127 : 0.0F;
        for (std::size_t k = 0; k < x.width; ++k) {
          const float half = to_half(x[r][k]);
          const float scaled = is_outlier(half) ? 0.0F : std::nearbyint(half * factor);
          codes[r][k] = static_cast<std::int8_t>(static_cast<std::int32_t>(scaled));
        }
        for (std::size_t i = 0; i < outlier_count; ++i) codes[r][outliers.data()[i]] = 0;
      }
    });
  }

 private:
  static float to_half(float value) noexcept { return F16::decode(F16::encode(value)); }
};

/// Exact, whatever the length: no run of 2^16 products leaves 32 bits.
inline std::int64_t integer_product(const std::int8_t* a, const std::int8_t* b, std::size_t count) noexcept {
  constexpr std::size_t run = std::size_t{1} << 16U;
  std::int64_t sum = 0;
  for (std::size_t first = 0; first < count; first += run) {
    const std::size_t last = std::min(count, first + run);
    std::int32_t part = 0;
    for (std::size_t k = first; k < last; ++k) part += std::int32_t{a[k]} * std::int32_t{b[k]};
    sum += part;
  }
  return sum;
}

}  // namespace detail

/// Products of bytes, summed exactly; columns in which a row has an outlier are multiplied in float32. So a row's result depends on
/// the outliers of the other rows, as in the reference.
/// Errors:  activations that are NaN or infinite are outliers.
/// Source:  Dettmers et al. 2022 (arXiv:2208.07339), section 3; bitsandbytes `MatMul8bitLt`. Its CPU back end divides by 127² with a
///          constant that is 1.8e-5 too large; this one does not.
template <class Arch, class Ctx>
void matmul_body(cpu<Arch, LLMInt8>, Ctx& ctx, Matrix<const float> x, const Weights<Int8>& w, const Epilogue& epilogue,
                 Matrix<float> y) {
  const detail::QuantizedActivations<Ctx> a(ctx, x, w.outlier_threshold);
  ctx.parallel(w.rows, 4, [&](std::size_t begin, std::size_t end, unsigned) {
    for (std::size_t out = begin; out < end; ++out) {
      const std::int8_t* const codes = w.codes + out * w.columns;
      for (std::size_t r = 0; r < x.rows; ++r) {
        const auto sum = static_cast<double>(detail::integer_product(a.codes.view()[r].data(), codes, w.columns));
        double product = sum * double{a.scales.data()[r]} * double{w.scales[out]} / (127.0 * 127.0);
        for (std::size_t i = 0; i < a.outlier_count; ++i) {
          const std::size_t k = a.outliers.data()[i];
          product += double{x[r][k]} * double{static_cast<float>(codes[k]) * w.scales[out] * Int8::step};
        }
        epilogue.store(static_cast<float>(product), r, out, y[r][out]);
      }
    }
  });
}

template <class Arch, class Ctx, class F>
void matmul_body(cpu<Arch, LLMInt8>, Ctx& ctx, Matrix<const float> x, const Weights<F>& w, const Epilogue& epilogue,
                 Matrix<float> y) {
  matmul_body(cpu<Arch, F32>{}, ctx, x, w, epilogue, y);
}

template <class Arch, class Ctx, class F>
bool multiply_together(cpu<Arch, LLMInt8>, [[maybe_unused]] Ctx& ctx, [[maybe_unused]] Matrix<const float> x,
                       [[maybe_unused]] std::span<const Product<F>> products) {
  if constexpr (std::same_as<F, Int8>) {
    return false;
  } else {
    return multiply_together(cpu<Arch, F32>{}, ctx, x, products);
  }
}

}  // namespace mllama::kernels
