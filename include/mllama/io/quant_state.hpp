// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <mllama/core/check.hpp>
#include <mllama/core/python_json.hpp>
#include <optional>
#include <string>
#include <string_view>

namespace mllama {

/// What bitsandbytes keeps in `weight.quant_state.bitsandbytes__nf4` and `…__fp4`: what the other tensors of a matrix do not say.
struct QuantState {
  std::string_view type;  ///< nf4 or fp4
  std::size_t rows = 0, columns = 0;
  std::optional<float> nested_offset = {};  ///< mean of the scales, if they are nested
  std::size_t block = 64, nested_block = 256;
  std::string_view dtype = "bfloat16";  ///< of the matrix before it was quantised

  /// The tensor's text, byte for byte as bitsandbytes writes it.
  [[nodiscard]] std::string text() const {
    std::string json = concat("{\"quant_type\":\"", type, "\",\"blocksize\":", block, ",\"dtype\":\"", dtype, "\",\"shape\":[",
                              rows, ',', columns, ']');
    if (nested_offset) {
      std::string offset = concat(double{*nested_offset});
      if (offset.find_first_of(".e") == std::string::npos) offset += ".0";  // else Python would read an integer
      json += concat(",\"nested_blocksize\":", nested_block, ",\"nested_dtype\":\"float32\",\"nested_offset\":", offset);
    }
    return python_json(json += '}', "quantisation state");
  }
};

}  // namespace mllama
