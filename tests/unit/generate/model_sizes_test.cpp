// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <mllama/generate/model_sizes.hpp>
#include <mllama/io/config_text.hpp>
#include <string>
#include <unit/io/temporary_folder.hpp>
#include <unit/models/tiny.hpp>

using namespace mllama;

TEST_CASE("a model type's configuration, written and read, is the type's") {
  const mllama_test::TemporaryFolder folder;
  folder.write("config.json", config_text(sizes_of<mllama_test::Tiny>()));
  CHECK_FALSE(config_difference<mllama_test::Tiny>(read_model_sizes(folder.path())));
  folder.write("config.json", config_text(sizes_of<Llama32Vision90B>()));
  CHECK_FALSE(config_difference<Llama32Vision90B>(read_model_sizes(folder.path())));
  const auto difference = config_difference<Llama32Vision11B>(read_model_sizes(folder.path()));
  REQUIRE(difference);
  CHECK(difference->field == "text_config.hidden_size");
  CHECK(difference->expected == "4096");
  CHECK(difference->found == "8192");
}

TEST_CASE("sizes of the released models are the defaults of their files") {
  const ModelSizes base = sizes_of<Llama32Vision11BBase>();
  CHECK(*base.vision == VisionSizes{});
  TextSizes expected;
  expected.bos.reset();
  expected.eos.clear();
  expected.rope = {.factor = 8};
  CHECK(base.text == expected);
  CHECK(base.image_token == 128256);
  CHECK(sizes_of<mllama_test::Tiny>().text.pad == std::nullopt);
}
