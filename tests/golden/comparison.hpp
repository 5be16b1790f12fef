// SPDX-License-Identifier: MIT
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include <golden_models.hpp>
#include <mllama/generate/logits.hpp>
#include <mllama/generate/pretrained.hpp>

/// What transformers computed for the models and inputs in `models/`, against `run_logits`. See README.md for the files.

namespace mllama_test {

/// Of max |a - b| / max |b|. Both sides are float32 and sum in different orders; 2e-6 is the most that has been seen.
inline constexpr double float32_tolerance = 1e-5;

using Outputs = std::vector<mllama::NamedTensor>;
/// Computes the outputs of one model, whose type is no longer known.
using Run = std::function<Outputs(const mllama::InputFile&, const mllama::Numerics&, unsigned threads)>;

/// The tensor that a profile's output is compared with: README's rule for those that are not stored twice.
inline const mllama::FileTensor* expected_tensor(const mllama::Safetensors& file, std::string_view profile, std::string_view name) {
  const mllama::FileTensor* found = file.find(mllama::concat(profile, "/", name));
  if (found != nullptr || profile == "transformers_4_55" || profile == "transformers_4_56") return found;
  return expected_tensor(file, profile == "meta" ? "transformers_4_45" : "transformers_4_56", name);
}

inline double relative_error(const std::vector<float>& found, const mllama::FileTensor& expected) {
  double difference = 0, largest = 0;
  for (std::size_t i = 0; i < found.size(); ++i) {
    float value;
    std::memcpy(&value, expected.bytes.data() + i * sizeof value, sizeof value);
    if (!std::isfinite(found[i])) return HUGE_VAL;
    difference = std::max(difference, std::abs(double{found[i]} - double{value}));
    largest = std::max(largest, std::abs(double{value}));
  }
  return largest == 0 ? difference : difference / largest;
}

/// A profile's stored names that the library did not give.
inline std::size_t missing_outputs(const mllama::Safetensors& expected, const std::string& profile, const Outputs& outputs) {
  return static_cast<std::size_t>(std::ranges::count_if(expected.tensors(), [&](const mllama::FileTensor& tensor) {
    return tensor.name.starts_with(profile + "/") &&
           std::ranges::find(outputs, tensor.name.substr(profile.size() + 1), &mllama::NamedTensor::name) == outputs.end();
  }));
}

inline bool same_bits(const Outputs& a, const Outputs& b) {
  return std::ranges::equal(a, b, [](const mllama::NamedTensor& x, const mllama::NamedTensor& y) {
    return x.name == y.name && x.shape == y.shape && x.values.size() == y.values.size() &&
           std::memcmp(x.values.data(), y.values.data(), x.values.size() * sizeof(float)) == 0;
  });
}

/// One file of inputs in all profiles.
inline void check_case(const std::string& path, const Run& run) {
  const mllama::InputFile inputs(path + ".safetensors");
  const mllama::Safetensors expected(path + ".expected.safetensors");
  double worst = 0;
  std::string where = "nowhere";
  std::size_t compared = 0;
  for (const std::string profile : {"meta", "transformers_4_45", "transformers_4_55", "transformers_4_56", "meta_rows"}) {
    CAPTURE(profile);
    const mllama::Numerics numerics = *mllama::numerics_of(profile);
    const Outputs outputs = run(inputs, numerics, 1);
    if (profile == "meta") CHECK(same_bits(outputs, run(inputs, numerics, 3)));
    CHECK(missing_outputs(expected, profile, outputs) == 0);
    for (const mllama::NamedTensor& output : outputs) {
      CAPTURE(output.name);
      const mllama::FileTensor* tensor = expected_tensor(expected, profile, output.name);
      if (tensor == nullptr) continue;
      REQUIRE(tensor->dtype == mllama::Dtype::F32);
      REQUIRE(tensor->shape == output.shape);
      const double error = relative_error(output.values, *tensor);
      CHECK(error <= float32_tolerance);
      ++compared;
      if (error >= worst) worst = error, where = profile + "/" + output.name;
    }
  }
  CHECK(compared > 0);
  std::printf("%-50s %4zu tensors, worst error %.1e at %s\n",
              path.substr(std::string_view(MLLAMA_TEST_DATA "/golden/").size()).c_str(), compared, worst, where.c_str());
}

/// All models and inputs, on a back end.
template <mllama::Backend B>
void check_golden_models() {
  namespace fs = std::filesystem;
  std::size_t cases = 0;
  for (const auto& entry : fs::directory_iterator(MLLAMA_TEST_DATA "/golden/models")) {
    const std::string folder = entry.path().string();
    mllama::with_model_of(folder, mllama::models::ModelList{}, [&]<class Model>(std::type_identity<Model>) {
      const auto weighted = mllama::load_weights<Model>(folder);
      const Run run = [&](const mllama::InputFile& inputs, const mllama::Numerics& numerics, unsigned threads) {
        return mllama::run_logits<B>(*weighted.model, inputs, numerics, threads);
      };
      for (const auto& file : fs::directory_iterator(folder + "/cases")) {
        std::string path = file.path().string();
        if (!path.ends_with(".expected.safetensors")) continue;
        path.resize(path.size() - std::string_view(".expected.safetensors").size());
        CAPTURE(path);
        check_case(path, run);
        ++cases;
      }
    });
  }
  CHECK(cases >= 21);
}

}  // namespace mllama_test
