// SPDX-License-Identifier: MIT
#include <cmath>
#include <fstream>
#include <string>
#include <type_traits>

#include "comparison.hpp"

namespace {

using mllama::Precision;
using mllama_test::Outputs;

/// Mean Kullback-Leibler divergence, in nats, of the distributions that two tensors of logits stand for.
double divergence(const mllama::NamedTensor& p, const mllama::NamedTensor& q) {
  const std::size_t width = p.shape.back(), rows = p.values.size() / width;
  double sum = 0;
  for (std::size_t r = 0; r < rows; ++r) {
    const float *const a = p.values.data() + r * width, *const b = q.values.data() + r * width;
    double total_a = 0, total_b = 0, dot = 0;
    for (std::size_t i = 0; i < width; ++i) {
      total_a += std::exp(double{a[i]});
      total_b += std::exp(double{b[i]});
      dot += std::exp(double{a[i]}) * (double{a[i]} - double{b[i]});
    }
    sum += dot / total_a - std::log(total_a) + std::log(total_b);
  }
  return sum / static_cast<double>(rows);
}

double relative_error(const mllama::NamedTensor& found, const mllama::NamedTensor& exact) {
  double difference = 0, largest = 0;
  for (std::size_t i = 0; i < exact.values.size(); ++i) {
    difference = std::max(difference, std::abs(double{found.values[i]} - double{exact.values[i]}));
    largest = std::max(largest, std::abs(double{exact.values[i]}));
  }
  return difference / largest;
}

/// The quantised golden models in integers, against the same in float32, which other tests compare with transformers.
template <class Model>
void check_precisions() {
  namespace fs = std::filesystem;
  using B = mllama::cpu<mllama::arch::native, mllama::AnyPrecision>;
  const std::string folder = mllama::concat(MLLAMA_TEST_DATA "/golden/models/", Model::name);
  const auto weighted = mllama::load_weights<Model>(folder);
  double worst_int16 = 0, worst_int8 = 0;
  std::size_t compared = 0;
  for (const auto& file : fs::directory_iterator(folder + "/cases")) {
    const std::string path = file.path().string();
    if (path.ends_with(".expected.safetensors")) continue;
    CAPTURE(path);
    const mllama::InputFile inputs(path);
    const auto run = [&](Precision precision, unsigned threads) {
      return mllama::run_logits<B>(*weighted.model, inputs, Model::numerics, threads, precision);
    };
    const Outputs exact = run(Precision::f32, 1), int16 = run(Precision::int16, 1), int8 = run(Precision::int8, 1);
    CHECK(mllama_test::same_bits(int16, run(Precision::int16, 3)));
    CHECK(mllama_test::same_bits(int8, run(Precision::int8, 3)));
    for (std::size_t i = 0; i < exact.size(); ++i) {
      if (!exact[i].name.ends_with("logits")) continue;
      CAPTURE(exact[i].name);
      REQUIRE(int16[i].shape == exact[i].shape);
      REQUIRE(int8[i].shape == exact[i].shape);
      const double near = relative_error(int16[i], exact[i]), far = divergence(exact[i], int8[i]);
      CHECK(near > 0);  // it is another arithmetic
      CHECK(near <= 1e-3);
      CHECK(far > 0);
      CHECK(far <= 1e-3);
      worst_int16 = std::max(worst_int16, near);
      worst_int8 = std::max(worst_int8, far);
      ++compared;
    }
  }
  CHECK(compared > 0);
  std::printf("%-12s int16: error of logits %.1e; int8: divergence %.1e\n", std::string(Model::name).c_str(), worst_int16,
              worst_int8);
}

/// The length of the vector of differences over that of the exact numbers.
double relative_length(const mllama::NamedTensor& found, const mllama::NamedTensor& exact) {
  double difference = 0, square = 0;
  for (std::size_t i = 0; i < exact.values.size(); ++i) {
    difference += std::pow(double{found.values[i]} - double{exact.values[i]}, 2);
    square += std::pow(double{exact.values[i]}, 2);
  }
  return std::sqrt(difference / square);
}

/// Products of bfloat16 cost less than transformers' own bfloat16 does, in each line of `bfloat16_errors.tsv` of the model.
template <class Model>
void check_bfloat16() {
  using B = mllama::cpu<mllama::arch::native, mllama::AnyPrecision>;
  const std::string folder = mllama::concat(MLLAMA_TEST_DATA "/golden/models/", Model::name);
  const auto weighted = mllama::load_weights<Model>(folder);
  const mllama::Numerics numerics = *mllama::numerics_of("transformers_4_56");
  std::ifstream table(MLLAMA_TEST_DATA "/golden/bfloat16_errors.tsv");
  std::string model, name, output, largest, length;
  std::size_t compared = 0;
  while (table >> model >> name >> output >> largest >> length) {
    if (model != Model::name) continue;
    CAPTURE(name);
    CAPTURE(output);
    const mllama::InputFile inputs(mllama::concat(folder, "/cases/", name, ".safetensors"));
    const auto run = [&](Precision precision, unsigned threads) {
      return mllama::run_logits<B>(*weighted.model, inputs, numerics, threads, precision);
    };
    const Outputs exact = run(Precision::f32, 1), bf16 = run(Precision::bf16, 1);
    CHECK(mllama_test::same_bits(bf16, run(Precision::bf16, 3)));
    for (std::size_t i = 0; i < exact.size(); ++i) {
      if (exact[i].name != output) continue;
      const double most = relative_error(bf16[i], exact[i]), error = relative_length(bf16[i], exact[i]);
      CHECK(error > 0);  // it is another arithmetic
      CHECK(most <= std::stod(largest));
      CHECK(error <= std::stod(length));
      std::printf("%-12s bf16: error of %s %.1e (transformers %s), of their vector %.1e (%s)\n", model.c_str(), output.c_str(),
                  most, largest.c_str(), error, length.c_str());
      ++compared;
    }
  }
  CHECK(compared == 2);
}

/// Keys and values in other formats, against the same in float32.
template <class Model>
void check_key_formats() {
  namespace fs = std::filesystem;
  using B = mllama::cpu<>;
  const std::string folder = mllama::concat(MLLAMA_TEST_DATA "/golden/models/", Model::name);
  const auto weighted = mllama::load_weights<Model>(folder);
  struct Format {
    mllama::KeyFormat format;
    const char* name;
    double most, worst = 0;
  };
  Format formats[]{
      {mllama::KeyFormat::bf16, "bf16", 1e-2}, {mllama::KeyFormat::f16, "f16", 2e-3}, {mllama::KeyFormat::int8, "int8", 2e-2}};
  std::size_t compared = 0;
  for (const auto& file : fs::directory_iterator(folder + "/cases")) {
    const std::string path = file.path().string();
    if (path.ends_with(".expected.safetensors")) continue;
    CAPTURE(path);
    const mllama::InputFile inputs(path);
    const auto run = [&](mllama::KeyFormat format, unsigned threads) {
      return mllama::run_logits<B>(*weighted.model, inputs, Model::numerics, threads, Precision::f32, format);
    };
    const Outputs exact = run(mllama::KeyFormat::f32, 1);
    for (Format& format : formats) {
      CAPTURE(format.name);
      const Outputs found = run(format.format, 1);
      CHECK(mllama_test::same_bits(found, run(format.format, 3)));
      for (std::size_t i = 0; i < exact.size(); ++i) {
        if (!exact[i].name.ends_with("logits")) continue;
        CAPTURE(exact[i].name);
        const double error = relative_error(found[i], exact[i]);
        CHECK(error > 0);  // it is another format
        CHECK(error <= format.most);
        format.worst = std::max(format.worst, error);
        ++compared;
      }
    }
  }
  CHECK(compared > 0);
  std::printf("%-12s error of logits with keys and values in", std::string(Model::name).c_str());
  for (const Format& format : formats) std::printf(" %s: %.1e", format.name, format.worst);
  std::printf("\n");
}

}  // namespace

TEST_CASE("keys and values in other formats change logits by less than they may") {
  check_key_formats<mllama::models::Nf4Plain>();
  check_key_formats<mllama::models::Nf4Nested>();
}

TEST_CASE("products in bfloat16 change logits of 4-bit models by less than computing in bfloat16 does in transformers") {
  check_bfloat16<mllama::models::Nf4Plain>();
  check_bfloat16<mllama::models::Nf4Nested>();
  check_bfloat16<mllama::models::Nf4Mixed>();
  check_bfloat16<mllama::models::Fp4Nested>();
}

TEST_CASE("products in integers change logits of 4-bit models by less than they may") {
  check_precisions<mllama::models::Nf4Plain>();
  check_precisions<mllama::models::Nf4Nested>();
  check_precisions<mllama::models::Fp4Nested>();
}
