// SPDX-License-Identifier: MIT
#include "comparison.hpp"

#include <charconv>

#include <mllama/core/context.hpp>
#include <mllama/generate/adapters.hpp>
#include <mllama/models/mllama/adapted.hpp>

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

/// All cases of a model.
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
    double worst = 0;
    std::size_t compared = 0;
    for (const NamedTensor& output : run_logits<B>(*loaded.model, inputs, profile::transformers_4_56::numerics, 2)) {
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
    std::printf("%-60s worst error %.1e\n", path.substr(path.find("adapters/")).c_str(), worst);
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
