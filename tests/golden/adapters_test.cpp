// SPDX-License-Identifier: MIT
#include "comparison.hpp"

#include <charconv>

#include <mllama/core/context.hpp>
#include <mllama/generate/adapters.hpp>
#include <mllama/generate/quantize.hpp>
#include <mllama/models/mllama/adapted.hpp>
#include <unit/io/temporary_folder.hpp>

using namespace mllama;

namespace {

/// What a file of expected outputs says of its making: `INPUTS ADAPTER=SCALE…`.
struct Run {
  std::string inputs;
  std::vector<std::pair<std::string, double>> adapters;

  explicit Run(std::string_view text) {
    const auto next = [&](char end) {
      const std::string_view word = text.substr(0, text.find(end));
      text.remove_prefix(std::min(text.size(), word.size() + 1));
      return std::string(word);
    };
    inputs = next(' ');
    while (!text.empty()) {
      std::string name = next('=');
      const std::string scale = next(' ');
      double value = 0;
      REQUIRE(std::from_chars(scale.data(), scale.data() + scale.size(), value).ec == std::errc{});
      adapters.emplace_back(std::move(name), value);
    }
  }
};

/// Compares with a file of expected outputs.
double worst_error(const std::vector<NamedTensor>& outputs, const Safetensors& expected) {
  double worst = 0;
  std::size_t compared = 0;
  for (const NamedTensor& output : outputs) {
    const FileTensor* const tensor = expected.find(concat("transformers_4_56/", output.name));
    if (tensor == nullptr) continue;
    CAPTURE(output.name);
    REQUIRE(tensor->shape == output.shape);
    const double error = mllama_test::relative_error(output.values, *tensor);
    CHECK(error <= mllama_test::float32_tolerance);
    worst = std::max(worst, error);
    ++compared;
  }
  CHECK(compared == expected.tensors().size());
  return worst;
}

/// All cases of a model, with adapters beside the weights and merged into them.
template <class Model, Backend B>
void check_adapters(const std::string& name) {
  namespace fs = std::filesystem;
  const std::string model = concat(MLLAMA_TEST_DATA "/golden/models/", name),
                    folder = concat(MLLAMA_TEST_DATA "/golden/adapters/", name);
  std::size_t cases = 0;
  for (const auto& entry : fs::directory_iterator(folder + "/cases")) {
    const std::string path = entry.path().string();
    CAPTURE(path);
    const Safetensors expected(path);
    const Run run(expected.metadata().at("run"));
    const InputFile inputs(concat(model, "/cases/", run.inputs, ".safetensors"));
    const auto loaded = load_weights<Adapted<Model>>(model);
    Context<B> ctx(2);
    Adapters adapters;
    for (const auto& [adapter, scale] : run.adapters) {
      adapters.add(loaded, concat(folder, "/", adapter), ctx);
      if (scale != 1) adapters.scale(adapters.size() - 1, scale);
      CHECK(adapters.notices(adapters.size() - 1).empty());
    }
    const auto outputs = [&](const auto& weights) {
      return run_logits<B>(*weights.model, inputs, profile::transformers_4_56::numerics, 2);
    };
    const double beside = worst_error(outputs(loaded), expected);

    QuantizeOptions options{.format = "f32"};
    for (const auto& [adapter, scale] : run.adapters) options.adapters.push_back({concat(folder, "/", adapter), scale});
    const mllama_test::TemporaryFolder merged;
    double inside = 0;
    if (std::ranges::count(run.adapters, "biased", &std::pair<std::string, double>::first) != 0) {
      // Its biases are for linears that have none to take them.
      CHECK_THROWS_AS(Quantizer(model, merged / "out", options), config_error);
    } else {
      Quantizer(model, merged / "out", options).run([] {});
      inside = worst_error(outputs(load_weights<Model>(merged / "out")), expected);
    }
    std::printf("%-60s worst error %.1e, merged %.1e\n", path.substr(path.find("adapters/")).c_str(), beside, inside);
    ++cases;
  }
  CHECK(cases >= 3);
}

}  // namespace

TEST_CASE("adapters do what PEFT makes them do") {
  check_adapters<models::OneTile, cpu<>>("one_tile");
  check_adapters<models::Nf4Plain, cpu<>>("nf4_plain");
}
TEST_CASE("adapters do what PEFT makes them do, on the reference back end") {
  check_adapters<models::OneTile, mllama::reference>("one_tile");
  check_adapters<models::Nf4Plain, mllama::reference>("nf4_plain");
}
