// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <mllama/io/config_text.hpp>
#include <mllama/io/mapped_file.hpp>
#include <mllama/io/processor_config.hpp>
#include <string>

#include "temporary_folder.hpp"

using namespace mllama;
using mllama_test::message;

namespace {
std::string content(const std::string& path) { return std::string(MappedFile(path).text()); }
/// Without the white space that is not in strings, of which the test's have none.
std::string compact(const JsonField& field) {
  std::string text(field.view().text());
  std::erase_if(text, [](char c) { return c == ' ' || c == '\n'; });
  return text;
}
}  // namespace

TEST_CASE("settings files are those of transformers, byte for byte") {
  const std::string pocket = MLLAMA_POCKET "/model-nf4";
  const ModelSizes sizes = read_model_sizes(pocket);
  CHECK(config_text(sizes) == content(pocket + "/config.json"));
  CHECK(preprocessor_config_text(*sizes.vision) == content(pocket + "/preprocessor_config.json"));

  // A model that was never loaded does not say the type of its parts.
  for (const std::string name : {"one_tile", "ratios", "odd", "appendix_a"}) {
    CAPTURE(name);
    const std::string model = MLLAMA_TEST_DATA "/golden/models/" + name;
    std::string text = config_text(read_model_sizes(model), "float32");
    const std::string_view line = "    \"dtype\": \"float32\",\n";
    for (std::size_t at = text.find(line); at != std::string::npos; at = text.find(line)) text.erase(at, line.size());
    CHECK(text == content(model + "/config.json"));
  }
  for (const std::string name : {"nf4_plain", "nf4_nested", "int8"}) {
    CAPTURE(name);
    const std::string model = MLLAMA_TEST_DATA "/golden/models/" + name;
    const JsonFile config(model + "/config.json");
    CHECK(quantization_config_text(read_model_sizes(model).quantization, "float32") ==
          compact(config.root()["quantization_config"]));
  }
}

TEST_CASE("what is written is read") {
  const mllama_test::TemporaryFolder folder;
  ModelSizes sizes;
  sizes.vision = VisionSizes{};
  sizes.text.eos = {3, 1, 4};
  sizes.quantization = {.method = "bitsandbytes",
                        .four_bit = true,
                        .type = "nf4",
                        .nested = true,
                        .int8_threshold = 5.5,
                        .skip_modules = {"lm_head", "a \"b\""}};
  folder.write("config.json", config_text(sizes));
  const ModelSizes read = read_model_sizes(folder.path());
  CHECK(read.text == sizes.text);
  CHECK(*read.vision == *sizes.vision);
  CHECK(read.quantization == sizes.quantization);
  sizes.quantization = {.method = "bitsandbytes", .eight_bit = true};
  folder.write("config.json", config_text(sizes));
  CHECK(read_model_sizes(folder.path()).quantization == sizes.quantization);

  folder.write("generation_config.json", generation_config_text(sizes.text));
  const GenerationSettings generation = read_generation_settings(folder.path(), {});
  CHECK(generation.do_sample);
  CHECK(generation.temperature == 0.6);
  CHECK(generation.top_p == 0.9);
  CHECK(generation.eos == sizes.text.eos);
  CHECK(generation.pad == sizes.text.pad);

  folder.write("preprocessor_config.json", preprocessor_config_text(*sizes.vision));
  CHECK(read_processor_config(folder / "preprocessor_config.json").tile == 448);
  CHECK(message<config_error>([] { static_cast<void>(config_text(ModelSizes{})); }) ==
        "vision_config: expected an object, found nothing");
}
