// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <mllama/core/check.hpp>
#include <mllama/core/format.hpp>
#include <mllama/core/json.hpp>
#include <mllama/io/elements.hpp>
#include <mllama/io/model_tensor.hpp>
#include <mllama/io/safetensors.hpp>
#include <span>
#include <string>
#include <string_view>
#include <utility>

/// Quantised matrices as bitsandbytes saves them. One of 4-bit codes, `weight`, is several tensors:
///
///     weight                                   two codes per byte, whatever element type the bytes are labelled with
///     weight.quant_state.bitsandbytes__nf4     JSON text: block size, shape, nested scales; `mllama__nf4x8` if the codes are in
///                                              the order of Packed<NF4>, see pack.hpp
///     weight.absmax                            a scale per block: F32, or U8 codes of nested scales
///     weight.quant_map                         the 16 values of the codes
///     weight.nested_absmax, .nested_quant_map  a scale per group of scales, and the 256 values of their codes
///
/// and one of LLM.int8():
///
///     weight                                   signed bytes, row major
///     SCB                                      a scale per row, F32, beside `weight` and not below it
///     weight_format                            0: row major; absent in old files
///
/// Source:  bitsandbytes `QuantState.as_dict` and `from_dict`. What that takes on trust is checked here: no value in a file that
///          passes makes a decoder read out of bounds.

namespace mllama {

namespace detail {

/// A companion of a quantised tensor, which must have this type and number of elements.
/// Errors:  format_error
inline const FileTensor& checked_part(const TensorOfFile& part, Dtype dtype, std::size_t count) {
  if (part.tensor->dtype != dtype || part.tensor->size() != count) {
    part.fail(concat(count, " elements of ", name(dtype)), concat(part.tensor->size(), " of ", name(part.tensor->dtype)));
  }
  return *part.tensor;
}

/// The numbers of a tensor of F32, all of which must be finite.
/// Errors:  format_error
inline const float* finite_numbers(const TensorOfFile& part, Elements& elements) {
  const float* const values = elements.of<float>(*part.tensor);
  bool all = true;
  for (std::size_t i = 0; i < part.tensor->size(); ++i) {
    all &=
        (std::bit_cast<std::uint32_t>(values[i]) & 0x7f800000U) != 0x7f800000U;  // by bits: a vector loop, also under -ffast-math
  }
  if (!all) part.fail("finite numbers", "NaN or infinity");
  return values;
}

}  // namespace detail

/// The tensors of one 8-bit matrix, before they are checked. `scales` and `layout` may be absent.
struct Int8Tensor {
  TensorOfFile weight, scales, layout;

  /// Whether the matrix is one of LLM.int8(): bytes with scales beside them.
  [[nodiscard]] bool quantized() const noexcept { return weight.tensor->dtype == Dtype::I8 && scales.present(); }

  /// The matrix, in place but for scales that are not aligned. Its shape has been checked.
  /// Errors:  format_error if a part has another type or size than the others ask for, if a scale is NaN or infinite, or if the
  ///          bytes are in one of the orders for GPUs that bitsandbytes no longer writes.
  template <RowFormat F>
  [[nodiscard]] Weights<F> read(std::span<const std::size_t> shape, Elements& elements) const {
    detail::checked_part(scales, Dtype::F32, shape[0]);
    if (layout.present()) {
      const auto order = std::to_integer<unsigned>(detail::checked_part(layout, Dtype::U8, 1).bytes[0]);
      if (order != 0) layout.fail("0, rows one after the other", concat(order), "bytes in an order for old GPUs");
    }
    return {.codes = elements.of<typename F::code>(*weight.tensor),
            .rows = shape[0],
            .columns = shape[1],
            .scales = detail::finite_numbers(scales, elements)};
  }
};

/// The tensors of one 4-bit matrix, before they are checked.
class QuantizedTensor {
 public:
  explicit QuantizedTensor(TensorOfFile weight) : weight_(weight) {}

  /// Adds the tensor whose name is the weight's and `suffix`.
  /// Errors:  format_error if bitsandbytes knows no such part, or if there are two quantisation states.
  void add(TensorOfFile part, std::string_view suffix) {
    if (suffix.starts_with(state_prefix)) {
      if (state_.present()) part.fail("one quantisation state per tensor", "a second one");
      state_ = part;
      const std::string_view kind = suffix.substr(state_prefix.size());
      constexpr std::string_view reference = "bitsandbytes__", own = "mllama__";
      if (kind.starts_with(reference)) {
        type_ = kind.substr(reference.size());
        if (type_ != "nf4" && type_ != "fp4") part.fail("quantisation nf4 or fp4", std::string(type_));
      } else if (kind.starts_with(own)) {
        type_ = kind.substr(own.size());
        if (type_ != "nf4x8") part.fail("layout nf4x8", std::string(type_));
      } else {
        part.fail("a quantisation state of bitsandbytes", std::string(kind));
      }
    } else if (suffix == ".absmax") {
      absmax_ = part;
    } else if (suffix == ".quant_map") {
      map_ = part;
    } else if (suffix == ".nested_absmax") {
      nested_absmax_ = part;
    } else if (suffix == ".nested_quant_map") {
      nested_map_ = part;
    } else {
      part.fail("a part of a quantised tensor", std::string(suffix));
    }
  }

  /// `nf4`, `fp4` or `nf4x8`; empty if there is no quantisation state, which makes it a dense tensor.
  [[nodiscard]] std::string_view type() const noexcept { return type_; }

  /// The shape that the quantisation state says; empty if it says none.
  /// Errors:  format_error if the state is no JSON text or the shape in it no list of lengths.
  [[nodiscard]] Shape stored_shape() const { return stated_shape(parse_state()); }

  /// The matrix, in place but for scales that are not aligned.
  /// Errors:  shape_error if it is not [rows, columns] = `shape`; format_error if a part is missing, has another type or size than
  ///          the others ask for, or holds NaN or infinity.
  template <class F>
    requires(BlockFormat<F> || PackedFormat<F>)
  [[nodiscard]] Weights<F> read(std::span<const std::size_t> shape, Elements& elements) const {
    if (shape.size() != 2) weight_.fail<shape_error>(to_string(shape), "a quantised matrix");
    const bool nested = nested_absmax_.present();
    const State state = read_state(shape, nested);
    const std::size_t count = checked_count(shape), blocks = quotient_up(count, state.block);
    check_codes(count);
    if constexpr (PackedFormat<F>) {
      check_map(F::unpacked::table, elements);
      if (shape[0] % F::group != 0 || shape[1] % state.block != 0) {
        weight_.fail<shape_error>(concat("rows in groups of ", F::group, " and whole blocks of ", state.block), to_string(shape));
      }
    } else {
      check_map(F::table, elements);
    }

    Weights<F> weights{};
    weights.codes = reinterpret_cast<const std::uint8_t*>(weight_.tensor->bytes.data());
    weights.rows = shape[0];
    weights.columns = shape[1];
    weights.block = state.block;
    if (nested) {
      const std::size_t groups = quotient_up(blocks, state.nested_block);
      weights.absmax_codes = elements.of<std::uint8_t>(*checked(absmax_, ".absmax", Dtype::U8, blocks).tensor);
      weights.nested_absmax = detail::finite_numbers(checked(nested_absmax_, ".nested_absmax", Dtype::F32, groups), elements);
      weights.nested_map = detail::finite_numbers(checked(nested_map_, ".nested_quant_map", Dtype::F32, 256), elements);
      weights.nested_block = state.nested_block;
      weights.nested_offset = state.nested_offset;
    } else {
      if (nested_map_.present()) nested_map_.fail("a tensor nested_absmax beside it", "none");
      weights.absmax = detail::finite_numbers(checked(absmax_, ".absmax", Dtype::F32, blocks), elements);
    }
    return weights;
  }

 private:
  static constexpr std::string_view state_prefix = ".quant_state.";

  /// What the JSON text says that the tensors do not.
  struct State {
    std::size_t block = 0, nested_block = 0;
    float nested_offset = 0;
  };

  [[nodiscard]] JsonField parse_state() const {
    const FileTensor& text = *checked(state_, state_prefix, Dtype::U8, state_.tensor->size()).tensor;
    return parse_json({reinterpret_cast<const char*>(text.bytes.data()), text.bytes.size()}, concat(state_.file, ": ", text.name),
                      state_limits);
  }

  [[nodiscard]] static Shape stated_shape(const JsonField& state) {
    Shape lengths;
    const JsonField stated = state["shape"];
    if (!stated.present()) return lengths;
    for (const JsonField& length : stated.elements()) lengths.push_back(length.integer<std::size_t>(1, most_elements));
    if (lengths.empty()) stated.fail("the lengths of a matrix");
    return lengths;
  }

  [[nodiscard]] State read_state(std::span<const std::size_t> shape, bool nested) const {
    const JsonField json_state = parse_state();
    const auto block_size = [](const JsonField& field) {
      const auto size = field.integer<std::size_t>(32, 4096);
      if (!std::has_single_bit(size)) field.fail("a power of two from 32 to 4096");
      return size;
    };
    const auto check_word = [&](std::string_view key, std::string_view word) {
      if (const JsonField field = json_state[key]; field.as<std::string>() != word) field.fail(concat('"', word, '"'));
    };
    check_word("quant_type", type_.substr(0, 3));              // of a packed one, too
    static_cast<void>(json_state["dtype"].as<std::string>());  // of the weights before they were quantised; we decode to float32
    if (const Shape stated = stated_shape(json_state); !stated.empty() && !std::ranges::equal(stated, shape)) {
      weight_.fail<shape_error>(to_string(shape), to_string(stated));
    }
    State state{.block = block_size(json_state["blocksize"])};
    if (nested) {
      state.nested_block = block_size(json_state["nested_blocksize"]);
      check_word("nested_dtype", "float32");
      state.nested_offset = json_state["nested_offset"].as<float>();
    } else if (const JsonField field = json_state["nested_blocksize"]; field.present()) {
      field.fail("nothing, because there is no tensor nested_absmax");
    }
    return state;
  }

  [[nodiscard]] std::size_t checked_count(std::span<const std::size_t> shape) const {
    if (shape[0] == 0 || shape[1] == 0 || shape[0] > most_elements / shape[1]) {
      weight_.fail<shape_error>("from 1 to 2^62 elements", to_string(shape));
    }
    return shape[0] * shape[1];
  }

  /// The codes' bytes may be labelled with any of these types, so that sharding tools can move them; values are never converted.
  void check_codes(std::size_t count) const {
    const Dtype dtype = weight_.tensor->dtype;
    if (dtype != Dtype::U8 && dtype != Dtype::I8 && dtype != Dtype::F16 && dtype != Dtype::BF16 && dtype != Dtype::F32 &&
        dtype != Dtype::F64) {
      weight_.fail("codes stored as U8, I8, F16, BF16, F32 or F64", std::string(name(dtype)));
    }
    const std::size_t item = bits(dtype) / 8, size = quotient_up(quotient_up(count, 2), item) * item;
    if (weight_.tensor->bytes.size() != size) {
      weight_.fail<shape_error>(concat(size, " bytes for ", count, " codes"), concat(weight_.tensor->bytes.size()));
    }
  }

  /// The decoder uses the table of the format; the file's must be the same but for its last digits, which old releases rounded.
  void check_map(const std::array<float, 16>& table, Elements& elements) const {
    const float* const stored = detail::finite_numbers(checked(map_, ".quant_map", Dtype::F32, table.size()), elements);
    for (std::size_t code = 0; code < table.size(); ++code) {
      if (const float difference = stored[code] - table[code]; difference > 1e-4F || difference < -1e-4F) {
        map_.fail(concat(table[code], " for code ", code), concat(stored[code]));
      }
    }
  }

  const TensorOfFile& checked(const TensorOfFile& part, std::string_view suffix, Dtype dtype, std::size_t count) const {
    if (!part.present()) weight_.fail(concat("a tensor ", weight_.tensor->name, suffix), "none of this name");
    detail::checked_part(part, dtype, count);
    return part;
  }

  static constexpr std::size_t quotient_up(std::size_t a, std::size_t b) noexcept { return a / b + (a % b != 0 ? 1 : 0); }

  static constexpr std::size_t most_elements = std::size_t{1} << 62U;
  static constexpr JsonLimits state_limits{.depth = 4, .values = 1000, .bytes = 65536};

  TensorOfFile weight_, state_, absmax_, map_, nested_absmax_, nested_map_;
  std::string_view type_;
};

}  // namespace mllama
