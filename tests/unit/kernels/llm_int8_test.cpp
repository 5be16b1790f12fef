// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include <mllama/core/encode.hpp>
#include <mllama/io/safetensors.hpp>
#include <mllama/kernels/matmul.hpp>

#include "operands.hpp"

using namespace mllama;
using namespace mllama_test;

namespace {

using Back = cpu<arch::native, LLMInt8>;

/// Outliers of few columns may cancel; decoded weights have been rounded twice.
constexpr double cancelling_tolerance = 1e-5;

struct Layer {
  std::vector<std::int8_t> codes;
  std::vector<float> scales, bias;
  Weights<Int8> weights;

  Layer(std::vector<std::int8_t> of_codes, std::vector<float> of_rows, std::vector<float> of_outputs = {})
      : codes(std::move(of_codes)), scales(std::move(of_rows)), bias(std::move(of_outputs)) {
    weights = {.codes = codes.data(), .rows = scales.size(), .columns = codes.size() / scales.size(), .scales = scales.data()};
  }
  Layer(Random& random, std::size_t n, std::size_t k) : Layer(std::vector<std::int8_t>(n * k), std::vector<float>(n)) {
    for (std::size_t r = 0; r < n; ++r) scales[r] = encode_row(random.normals(k), codes.data() + r * k);
  }

  template <class B = Back>
  [[nodiscard]] std::vector<float> operator()(const Grid& x, unsigned threads = 2) const {
    Grid y(x.matrix().rows, weights.rows);
    Context<B> ctx(threads);
    kernels::matmul(ctx, x.matrix(), weights, {.bias = bias.empty() ? nullptr : bias.data()}, y.matrix());
    return y.elements();
  }
};

/// The definition, in double; `divisor` is what stands for 127².
std::vector<float> by_definition(const Layer& layer, const Grid& x, double divisor) {
  const Matrix<const float> a = x.matrix();
  const auto half = [](float value) { return F16::decode(F16::encode(value)); };
  const float threshold = layer.weights.outlier_threshold;
  const auto is_outlier = [&](float value) { return threshold > 0 && std::abs(half(value)) >= threshold; };
  std::vector<float> y;
  for (std::size_t r = 0; r < a.rows; ++r) {
    float scale = 0;
    for (const float value : a.row(r)) scale = is_outlier(value) ? scale : std::max(scale, std::abs(half(value)));
    for (std::size_t n = 0; n < layer.weights.rows; ++n) {
      double inner = 0, outer = layer.bias.empty() ? 0 : double{layer.bias[n]};
      for (std::size_t k = 0; k < a.width; ++k) {
        bool column = false;
        for (std::size_t other = 0; other < a.rows; ++other) column |= is_outlier(a[other][k]);
        const std::int8_t code = layer.codes[n * a.width + k];
        if (column) {
          outer += double{a[r][k]} * code * double{layer.scales[n]} / 127;
        } else if (scale > 0) {
          const float inverse = 1 / scale;
          inner += std::nearbyint(half(a[r][k]) * (inverse * 127)) * code;
        }
      }
      y.push_back(static_cast<float>(inner * double{scale} * double{layer.scales[n]} / divisor + outer));
    }
  }
  return y;
}

template <class T>
std::vector<T> elements(const Safetensors& file, const std::string& name) {
  const FileTensor* tensor = file.find(name);
  if (tensor == nullptr) return {};
  std::vector<T> values(tensor->size());
  std::memcpy(values.data(), tensor->bytes.data(), tensor->bytes.size());
  return values;
}

Grid grid(const std::vector<float>& values, std::size_t width) {
  Grid x(values.size() / width, width);
  x.memory() = values;
  return x;
}

}  // namespace

TEST_CASE("what bitsandbytes' layer computes, but for its slip in the constant") {
  const Safetensors file(MLLAMA_TEST_DATA "/golden/formats/int8_products.safetensors");
  for (int i = 0; i < 4; ++i) {
    CAPTURE(i);
    const auto name = [&](std::string_view part) { return concat(i, ".", part); };
    const Layer layer(elements<std::int8_t>(file, name("weight")), elements<float>(file, name("SCB")),
                      elements<float>(file, name("bias")));
    const Grid x = grid(elements<float>(file, name("x")), layer.weights.columns);
    const std::vector<float> y = elements<float>(file, name("y"));
    REQUIRE(y.size() == x.matrix().rows * layer.weights.rows);
    CHECK(relative_error(by_definition(layer, x, 1 / 6.200124e-05), y) < 1e-6);
    CHECK(relative_error(layer(x), by_definition(layer, x, 127.0 * 127.0)) < 1e-6);
    CHECK(relative_error(layer(x), y) < 3e-5);
  }
}

TEST_CASE("every length and number of rows, with and without outliers, on any number of threads") {
  constexpr unsigned seed = 11;
  CAPTURE(seed);
  Random random(seed);
  for (std::size_t k = 1; k <= 70; ++k) {
    for (const std::size_t rows : {1U, 2U, 5U}) {
      CAPTURE(k);
      CAPTURE(rows);
      Layer layer(random, 7, k);
      layer.weights.outlier_threshold = k % 3 == 0 ? 0.0F : k % 3 == 1 ? 2.0F : 6.0F;
      const Grid x(random, rows, k, k % 2);
      const auto y = layer(x);
      CHECK(relative_error(y, by_definition(layer, x, 127.0 * 127.0)) < cancelling_tolerance);
      CHECK(same_bits(y, layer(x, 1)));
      CHECK(same_bits(y, layer(x, 3)));
    }
  }
}

TEST_CASE("the more rows without outliers, the nearer to decoded weights: quantised activations lose a few thousandths") {
  Random random(3);
  const Layer layer(random, 64, 512);
  const Grid x(random, 8, 512);
  const double error = relative_error(layer(x), layer.operator()<reference>(x));
  CHECK(error > 1e-4);  // it is another arithmetic
  CHECK(error < 2e-2);
}

TEST_CASE("zeros, and activations that are not finite") {
  Random random(4);
  const Layer layer(random, 3, 40);
  CHECK(layer(Grid(2, 40)) == std::vector<float>(6, 0.0F));
  Grid x(random, 2, 40);
  x.memory()[7] = std::numeric_limits<float>::quiet_NaN();
  const auto y = layer(x);
  for (std::size_t n = 0; n < 3; ++n) {
    CHECK(std::isnan(y[n]));
    CHECK(std::isfinite(y[3 + n]));
  }
  Grid large(1, 40);
  large.memory()[3] = 1e6F;  // beyond binary16
  CHECK(relative_error(layer(large), layer.operator()<reference>(large)) < 1e-6);
}

TEST_CASE("other formats are multiplied in float32") {
  Random random(5);
  const auto values = random.normals(5 * 40);
  const Weights<F32> weights{values.data(), 5, 40};
  const Grid x(random, 3, 40);
  const auto product = [&]<class B>(B) {
    Grid y(3, 5);
    Context<B> ctx(1);
    kernels::matmul(ctx, x.matrix(), weights, {}, y.matrix());
    return y.elements();
  };
  CHECK(same_bits(product(Back{}), product(Simd{})));
}
