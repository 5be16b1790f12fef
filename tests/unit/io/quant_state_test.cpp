// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <mllama/io/quant_state.hpp>
#include <mllama/io/safetensors.hpp>
#include <string>

using namespace mllama;

TEST_CASE("the text is that of bitsandbytes, byte for byte") {
  CHECK(QuantState{.type = "nf4", .rows = 4096, .columns = 4096, .nested_offset = 0.0345F}.text() ==
        R"({"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [4096, 4096], "nested_blocksize": 256, )"
        R"("nested_dtype": "float32", "nested_offset": 0.03449999913573265})");
  CHECK(QuantState{.type = "fp4", .rows = 3, .columns = 5, .block = 128, .dtype = "float32"}.text() ==
        R"({"quant_type": "fp4", "blocksize": 128, "dtype": "float32", "shape": [3, 5]})");
  CHECK(QuantState{.type = "nf4", .rows = 1, .columns = 1, .nested_offset = 1e-5F}.text().find(
            "\"nested_offset\": 9.999999747378752e-06}") != std::string::npos);

  int compared = 0;
  for (const std::string model :
       {MLLAMA_POCKET "/model-nf4", MLLAMA_TEST_DATA "/golden/models/fp4_nested", MLLAMA_TEST_DATA "/golden/models/nf4_plain"}) {
    const Safetensors file(model + "/model.safetensors");
    for (const FileTensor& tensor : file.tensors()) {
      if (tensor.name.find(".quant_state.") == std::string::npos) continue;
      const std::string text(reinterpret_cast<const char*>(tensor.bytes.data()), tensor.bytes.size());
      const JsonField state = parse_json(text, tensor.name);
      const JsonField offset = state["nested_offset"];
      const auto type = state["quant_type"].as<std::string>(), dtype = state["dtype"].as<std::string>();
      const auto shape = state["shape"].elements();
      REQUIRE(shape.size() == 2);
      CHECK(QuantState{.type = type,
                       .rows = shape[0].as<std::size_t>(),
                       .columns = shape[1].as<std::size_t>(),
                       .nested_offset = offset.present() ? std::optional(offset.as<float>()) : std::nullopt,
                       .dtype = dtype}
                .text() == text);
      ++compared;
    }
  }
  CHECK(compared > 30);
}
