// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <cstring>
#include <mllama/core/format.hpp>
#include <mllama/io/safetensors.hpp>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace mllama_test {

/// A matrix of random codes and scales as bitsandbytes saves it: what a test takes apart and damages. Nested scales or plain ones.
struct FourBitMatrix {
  std::size_t rows, columns, block;
  bool nested;
  std::size_t blocks = (rows * columns + block - 1) / block, groups = (blocks + 255) / 256;
  std::vector<std::uint8_t> codes = std::vector<std::uint8_t>((rows * columns + 1) / 2),
                            absmax_codes = std::vector<std::uint8_t>(blocks);
  std::vector<float> absmax = std::vector<float>(blocks), map{mllama::NF4::table.begin(), mllama::NF4::table.end()};
  std::vector<float> nested_absmax = std::vector<float>(groups), nested_map = std::vector<float>(256);
  float nested_offset = 0.0345F;
  std::string state;

  FourBitMatrix(std::size_t n, std::size_t k, std::size_t block_size, bool is_nested, unsigned seed = 1)
      : rows(n), columns(k), block(block_size), nested(is_nested) {
    std::mt19937 random(seed);
    const auto fraction = [&] { return static_cast<float>(random() % 1000 + 1) * 0.001F; };
    for (auto& byte : codes) byte = static_cast<std::uint8_t>(random());
    for (auto& byte : absmax_codes) byte = static_cast<std::uint8_t>(random());
    for (auto& scale : absmax) scale = fraction();
    for (auto& scale : nested_absmax) scale = fraction();
    for (std::size_t i = 0; i < nested_map.size(); ++i) nested_map[i] = (static_cast<float>(i) - 127) / 128;
    state = mllama::concat(R"({"quant_type": "nf4", "blocksize": )", block, R"(, "dtype": "bfloat16", "shape": [)", rows, ", ",
                           columns, "]");
    if (nested) state += R"(, "nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 0.03449999913573265)";
    state += '}';
  }

  /// Its tensors, which refer to this object.
  [[nodiscard]] std::vector<mllama::FileTensor> tensors(const std::string& name) const {
    using enum mllama::Dtype;
    std::vector<mllama::FileTensor> all{
        {name, U8, {codes.size(), 1}, std::as_bytes(std::span(codes))},
        {name + ".quant_map", F32, {map.size()}, std::as_bytes(std::span(map))},
        {name + ".quant_state.bitsandbytes__nf4", U8, {state.size()}, std::as_bytes(std::span(state))},
    };
    if (nested) {
      all.push_back({name + ".absmax", U8, {blocks}, std::as_bytes(std::span(absmax_codes))});
      all.push_back({name + ".nested_absmax", F32, {groups}, std::as_bytes(std::span(nested_absmax))});
      all.push_back({name + ".nested_quant_map", F32, {256}, std::as_bytes(std::span(nested_map))});
    } else {
      all.push_back({name + ".absmax", F32, {blocks}, std::as_bytes(std::span(absmax))});
    }
    return all;
  }

  /// Element `e` by the definition of the format.
  [[nodiscard]] float element(std::size_t e) const {
    const unsigned byte = codes[e / 2], code = e % 2 == 0 ? byte >> 4U : byte & 15U;
    const std::size_t b = e / block;
    const volatile float product = nested_map[absmax_codes[b]] * nested_absmax[b / 256];
    return mllama::NF4::table[code] * (nested ? product + nested_offset : absmax[b]);
  }
};

}  // namespace mllama_test
