// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include <mllama/core/encode.hpp>
#include <mllama/core/format.hpp>
#include <mllama/core/rounding.hpp>
#include <mllama/core/workspace.hpp>
#include <mllama/generate/numbered_normals.hpp>
#include <mllama/io/bitsandbytes_writer.hpp>
#include <mllama/io/checkpoint_writer.hpp>
#include <mllama/io/config.hpp>

/// Made-up tensors of a checkpoint: which there are, and any piece of their bytes.

namespace mllama {

/// How the linears of a made-up checkpoint are stored. All else is bfloat16, as transformers leaves it.
enum class LinearStorage : unsigned char { bf16, nf4, fp4, int8 };

namespace detail {

/// A parameter of a model, before it is known how it is stored.
struct SyntheticParameter {
  std::string name;
  Shape shape;
  bool is_quantized = false;
};

/// What the bytes of a tensor are. Sizes are those of the numbers that they stand for.
struct FixedBytes {
  std::span<const std::byte> bytes;
};
struct Normals {  ///< bfloat16
  float middle = 0, size = 1;
};
struct Gates {};  ///< bfloat16, of either sign, 0.25 to 0.75
template <BlockFormat F>
struct BlockCodes {};
struct BlockScales {  ///< float32
  float size = 1;
};
struct BlockScaleCodes {};
struct RowCodes {};
struct NearlyEqual {  ///< float32, up to a twentieth more or less
  float value = 1;
};
using SyntheticBytes =
    std::variant<FixedBytes, Normals, Gates, BlockCodes<NF4>, BlockCodes<FP4>, BlockScales, BlockScaleCodes, RowCodes, NearlyEqual>;

/// Makes pieces of tensors. Constant: threads may share one.
class TensorSynthesizer {
 public:
  explicit TensorSynthesizer(std::uint64_t seed) : seed_(seed) {}

  [[nodiscard]] const NormalTables& tables() const noexcept { return tables_; }

  /// The bytes [first, first + out.size()) of a tensor. `first` is a multiple of 256, `out` aligned for all numbers.
  void make(std::string_view name, const SyntheticBytes& bytes, std::size_t first, std::span<std::byte> out) const {
    const NumberedWords words(name, seed_);
    std::visit([&](const auto& kind) { fill(kind, name, words, first, out); }, bytes);
  }

 private:
  void fill(const FixedBytes& fixed, std::string_view, const NumberedWords&, std::size_t first, std::span<std::byte> out) const {
    std::memcpy(out.data(), fixed.bytes.data() + first, out.size());
  }
  void fill(const Normals& normals, std::string_view, const NumberedWords& words, std::size_t first,
            std::span<std::byte> out) const {
    std::array<std::uint16_t, std::tuple_size_v<decltype(NormalTables::numbers)>> table{};
    for (std::size_t i = 0; i < table.size(); ++i) {
      table[i] = BF16::encode(normals.middle + rounded(normals.size * tables_.numbers[i]));
    }
    draw_bytes<std::uint16_t>(words, table, first, out);
  }
  void fill(const Gates&, std::string_view, const NumberedWords& words, std::size_t first, std::span<std::byte> out) const {
    std::array<std::uint16_t, 256> table{};
    for (std::size_t i = 0; i < table.size(); ++i) {
      const std::size_t step = i / 2;
      const float magnitude = 0.25F + static_cast<float>(step) / static_cast<float>(table.size());
      table[i] = BF16::encode(i % 2 == 0 ? magnitude : -magnitude);
    }
    draw_bytes<std::uint16_t>(words, table, first, out);
  }
  template <BlockFormat F>
  void fill(const BlockCodes<F>&, std::string_view name, const NumberedWords& words, std::size_t first,
            std::span<std::byte> out) const {
    draw_codes<F>(words, NumberedWords(std::string(name) += "/peaks", seed_), tables_.pairs<F>(), first / (NormalTables::block / 2),
                  {reinterpret_cast<std::uint8_t*>(out.data()), out.size()});
  }
  void fill(const BlockScales& scales, std::string_view, const NumberedWords& words, std::size_t first,
            std::span<std::byte> out) const {
    std::array<float, 256> table{};
    for (std::size_t i = 0; i < table.size(); ++i) table[i] = scales.size * tables_.peaks[i];
    draw_bytes<float>(words, table, first, out);
  }
  void fill(const BlockScaleCodes&, std::string_view, const NumberedWords& words, std::size_t first,
            std::span<std::byte> out) const {
    draw_bytes<std::uint8_t>(words, tables_.peak_codes, first, out);
  }
  void fill(const RowCodes&, std::string_view, const NumberedWords& words, std::size_t first, std::span<std::byte> out) const {
    draw_bytes<std::int8_t>(words, tables_.row_codes, first, out);
  }
  void fill(const NearlyEqual& numbers, std::string_view, const NumberedWords& words, std::size_t first,
            std::span<std::byte> out) const {
    std::array<float, 256> table{};
    for (std::size_t i = 0; i < table.size(); ++i)
      table[i] = numbers.value * (0.95F + rounded(static_cast<float>(i) * (0.1F / 256)));
    draw_bytes<float>(words, table, first, out);
  }

  template <class T>
  static void draw_bytes(const NumberedWords& words, std::span<const T> table, std::size_t first, std::span<std::byte> out) {
    draw(words, table, first / sizeof(T), std::span(reinterpret_cast<T*>(out.data()), out.size() / sizeof(T)));
  }

  std::uint64_t seed_;
  NormalTables tables_;
};

/// Spreads of weights under which a model of any depth behaves: activations keep their size, each residual branch adds a part of
/// it, scores of attention differ by about one, and probabilities of tokens are neither alike nor certain.
class SyntheticSpreads {
 public:
  explicit SyntheticSpreads(const ModelSizes& sizes)
      : text_layers_(sizes.text.layers),
        vision_layers_(sizes.vision ? sizes.vision->layers + sizes.vision->global_layers : 0),
        vocab_(sizes.text.vocab) {}

  [[nodiscard]] Normals of(const SyntheticParameter& parameter) const {
    const std::string_view name = parameter.name;
    const auto has = [&](std::string_view part) { return name.find(part) != name.npos; };
    if (parameter.shape.size() == 1) {
      if (has("norm") && name.ends_with("weight")) return {1, 0.1F};
      return {0, has("class_embedding") ? 1 : 0.05F};
    }
    if (has("embed_tokens")) return {0, 1};
    if (has("positional_embedding")) return {0, 0.5F};
    std::size_t columns = 1;
    for (const std::size_t length : std::span(parameter.shape).subspan(1)) columns *= length;
    return {0, std::sqrt(square_gain(name) / static_cast<float>(columns))};
  }

 private:
  /// Of the output's variance over that of the input.
  [[nodiscard]] float square_gain(std::string_view name) const {
    const bool is_residual = name.ends_with("o_proj.weight") || name.ends_with("down_proj.weight") || name.ends_with("fc2.weight");
    if (is_residual) return 2 / static_cast<float>(name.starts_with("vision_model.") ? vision_layers_ : text_layers_);
    // Logits of variance 0.8 · ln(vocab): of normal logits with 2 · ln(vocab), a single one would have all the probability.
    if (name.ends_with("lm_head.weight")) return 0.55F * static_cast<float>(std::bit_width(static_cast<unsigned>(vocab_)));
    return 1;
  }

  int text_layers_, vision_layers_, vocab_;
};

/// The tensors of a checkpoint: what is declared to its writer and, under the same numbers, what their bytes are.
class TensorPlanner {
 public:
  TensorPlanner(const TensorPlanner&) = delete;
  TensorPlanner& operator=(const TensorPlanner&) = delete;
  TensorPlanner(const ModelSizes& sizes, LinearStorage storage, bool is_nested, const NormalTables& tables)
      : spreads_(sizes), storage_(storage), is_nested_(is_nested), tables_(&tables) {}

  void add(const SyntheticParameter& parameter) {
    const Normals numbers = spreads_.of(parameter);
    if (parameter.is_quantized) {
      if (storage_ == LinearStorage::int8) return add_rows(parameter, numbers.size);
      return storage_ == LinearStorage::nf4 ? add_blocks<NF4>(parameter, "nf4", numbers.size)
                                            : add_blocks<FP4>(parameter, "fp4", numbers.size);
    }
    tensors_.push_back({parameter.name, Dtype::BF16, parameter.shape});
    bytes_.push_back(parameter.shape == Shape{1} ? SyntheticBytes(Gates{}) : SyntheticBytes(numbers));
  }

  [[nodiscard]] const std::vector<PlannedTensor>& tensors() const noexcept { return tensors_; }
  [[nodiscard]] const std::vector<SyntheticBytes>& bytes() const noexcept { return bytes_; }

 private:
  template <BlockFormat F>
  void add_blocks(const SyntheticParameter& parameter, std::string_view type, float size) {
    const float of_normals = size / tables_->decoded_size<F>();  // before they were quantised
    FourBitTensors matrix{.name = parameter.name,
                          .matrix = {.type = type, .rows = parameter.shape[0], .columns = parameter.shape[1]},
                          .nested = is_nested_};
    if (is_nested_) matrix.matrix.nested_offset = of_normals * tables_->peak_offset;
    matrix.declare(tensors_);
    bytes_.resize(tensors_.size());
    bytes_[matrix.codes()] = BlockCodes<F>{};
    bytes_[matrix.quant_map()] = fixed(F::table);
    bytes_[matrix.state()] = fixed(matrix.matrix.text());
    if (is_nested_) {
      bytes_[matrix.absmax()] = BlockScaleCodes{};
      bytes_[matrix.nested_absmax()] = NearlyEqual{of_normals * tables_->peak_spread};
      bytes_[matrix.nested_map()] = fixed(dynamic_map());
    } else {
      bytes_[matrix.absmax()] = BlockScales{of_normals};
    }
  }

  void add_rows(const SyntheticParameter& parameter, float size) {
    Int8Tensors matrix{.name = parameter.name, .shape = parameter.shape};
    matrix.declare(tensors_);
    bytes_.resize(tensors_.size());
    bytes_[matrix.codes()] = RowCodes{};
    bytes_[matrix.scales()] = NearlyEqual{size * tables_->numbers.back()};
    bytes_[matrix.layout()] = fixed(std::array{std::byte{0}});
  }

  FixedBytes fixed(const auto& values) {
    const auto bytes = std::as_bytes(std::span(values));
    return {fixed_.emplace_back(bytes.begin(), bytes.end())};
  }

  SyntheticSpreads spreads_;
  LinearStorage storage_;
  bool is_nested_;
  const NormalTables* tables_;
  std::vector<PlannedTensor> tensors_;
  std::vector<SyntheticBytes> bytes_;
  std::vector<std::vector<std::byte>> fixed_;  ///< what `bytes_` refers to
};

}  // namespace detail

}  // namespace mllama
