// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <string>

#include <mllama/io/processor_config.hpp>

using mllama::ProcessorConfig;

namespace {

ProcessorConfig read(const std::string& text) { return mllama::processor_config(mllama::parse_json(text, "p.json")); }

}  // namespace

TEST_CASE("the published preprocessor_config.json has the defaults of ProcessorConfig") {
  const ProcessorConfig config = read(R"({"do_convert_rgb": true, "do_normalize": true, "do_pad": true, "do_rescale": true,
    "do_resize": true, "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_processor_type": "MllamaImageProcessor",
    "image_std": [0.26862954, 0.26130258, 0.27577711], "max_image_tiles": 4, "resample": 2,
    "rescale_factor": 0.00392156862745098, "size": {"height": 560, "width": 560}})");
  const ProcessorConfig defaults;
  CHECK(config.tile == defaults.tile);
  CHECK(config.max_tiles == defaults.max_tiles);
  CHECK(config.rescale == defaults.rescale);
  CHECK(config.rescale_factor == defaults.rescale_factor);
  CHECK(config.normalize == defaults.normalize);
  CHECK(config.mean == defaults.mean);
  CHECK(config.standard_deviation == defaults.standard_deviation);
}

TEST_CASE("absent values have transformers' defaults, present ones are taken") {
  const ProcessorConfig empty = read("{}");
  CHECK(empty.tile == 224);
  CHECK(empty.max_tiles == 4);
  CHECK(empty.mean == std::array{0.5, 0.5, 0.5});
  CHECK(read(R"({"size": null, "image_mean": null, "do_pad": null})").tile == 224);
  const ProcessorConfig other =
      read(R"({"size": {"height": 28, "width": 28}, "max_image_tiles": 6, "do_rescale": false, "do_normalize": false,
    "rescale_factor": 0.5, "image_std": [1, 2, 3.5]})");
  CHECK(other.tile == 28);
  CHECK(other.max_tiles == 6);
  CHECK_FALSE(other.rescale);
  CHECK_FALSE(other.normalize);
  CHECK(other.rescale_factor == 0.5);
  CHECK(other.standard_deviation == std::array{1.0, 2.0, 3.5});
}

TEST_CASE("what the image processor cannot do is refused") {
  struct Row {
    std::string text, message;
  };
  for (const auto& [text, message] : {
           Row{R"({"do_resize": false})", "p.json: do_resize: expected true, found false: this image processor always does it"},
           Row{R"({"do_pad": false})", "p.json: do_pad: expected true, found false: this image processor always does it"},
           Row{R"({"resample": 3})", "p.json: resample: expected 2, bilinear, found 3"},
           Row{R"({"size": {"height": 5, "width": 6}})",
               "p.json: size.width: expected the same as the height, 5, found 6: tiles are square"},
           Row{R"({"size": {"shortest_edge": 6}})", "p.json: size.height: expected an integer from 1 to 33554432, found nothing"},
           Row{R"({"size": {"height": 0, "width": 0}})", "p.json: size.height: expected an integer from 1 to 33554432, found 0"},
           Row{R"({"max_image_tiles": 0})", "p.json: max_image_tiles: expected an integer from 1 to 1024, found 0"},
           Row{R"({"max_image_tiles": -4})", "p.json: max_image_tiles: expected an integer from 1 to 1024, found -4"},
           Row{R"({"max_image_tiles": null})", "p.json: max_image_tiles: expected an integer from 1 to 1024, found null"},
           Row{R"({"image_mean": [1, 2]})", "p.json: image_mean: expected an array of 3, found [1, 2]"},
           Row{R"({"image_mean": [1, 2, "x"]})", "p.json: image_mean[2]: expected a number, found \"x\""},
           Row{R"([])", "p.json: expected an object, found []"},
       }) {
    CAPTURE(text);
    CHECK_THROWS_WITH_AS((void)read(text), message.c_str(), mllama::error);
  }
}
