// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <mllama/core/check.hpp>
#include <mllama/core/format.hpp>
#include <mllama/io/checkpoint.hpp>
#include <mllama/io/checkpoint_writer.hpp>
#include <mllama/io/settings_files.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

/// Folders whose 4-bit codes are in the order of a kernel, to be mapped and used as they are; and back.

namespace mllama {

/// Puts the codes of `rows` rows of `row_bytes` bytes each in the order of a packed format.
template <PackedFormat F>
void pack_codes(const std::uint8_t* codes, std::size_t rows, std::size_t row_bytes, std::uint8_t* packed) noexcept {
  for (std::size_t row = 0; row < rows; ++row) {
    for (std::size_t byte = 0; byte < row_bytes; ++byte) packed[F::place(row, byte, row_bytes)] = codes[row * row_bytes + byte];
  }
}

/// The inverse of pack_codes.
template <PackedFormat F>
void unpack_codes(const std::uint8_t* packed, std::size_t rows, std::size_t row_bytes, std::uint8_t* codes) noexcept {
  for (std::size_t row = 0; row < rows; ++row) {
    for (std::size_t byte = 0; byte < row_bytes; ++byte) codes[row * row_bytes + byte] = packed[F::place(row, byte, row_bytes)];
  }
}

/// Whether to put codes into a kernel's order or back into bitsandbytes'.
enum class Repacking { pack, unpack };

/// What has been done.
struct RepackingReport {
  std::size_t matrices = 0,
              left = 0;  ///< in the other order now; matrices of 4 bits that have no place in it, and stay as they were
};

/// Writes a folder anew with the codes of its NF4 matrices in the order of Packed<NF4>, or from there back. All other bytes and files
/// are the same; what has been packed is unpacked at once, and compared. The packed folder is for this library: its quantisation
/// states have names that bitsandbytes refuses. `done()` is called after each tensor.
/// Errors:  those of Checkpoint::open and CheckpointWriter; shape_error and format_error for damaged matrices.
template <class = void, class Done>  // a template, so that bodies are compiled where they are used and not with every include
RepackingReport repack_folder(const std::string& from, const std::string& to, Repacking direction, Done&& done,
                              CheckpointWriterOptions options = {}) {
  using Layout = Packed<NF4>;
  constexpr std::string_view plain = ".quant_state.bitsandbytes__nf4", packed = ".quant_state.mllama__nf4x8";
  const bool packs = direction == Repacking::pack;
  const std::string_view before = packs ? plain : packed, after = packs ? packed : plain;

  Checkpoint source = Checkpoint::open(from);
  Elements memory;
  RepackingReport report;
  struct Work {
    const FileTensor* tensor;
    std::string name;
    std::optional<Weights<NF4>> matrix = {};  // whose codes the tensor is, if they are to change their order
  };
  std::vector<Work> all;
  const auto matrix_of = [&](const ModelTensor& tensor) -> std::optional<Weights<NF4>> {
    if (source.find(concat(tensor.name, before)) == nullptr) return std::nullopt;
    const Shape shape = source.own_shape(tensor);
    if (!packs) {
      Weights<Layout> weights;
      source.bind(weights, tensor.name, shape, memory);
      return weights;
    }
    Weights<NF4> weights;
    source.bind(weights, tensor.name, shape, memory);
    const bool fits = weights.rows % Layout::group == 0 && weights.columns % weights.block == 0;
    report.left += fits ? 0U : 1U;
    return fits ? std::optional(weights) : std::nullopt;
  };
  for (const ModelTensor& tensor : source.tensors()) {
    if (!tensor.in_place()) tensor.stored.fail("a folder in the layout of transformers", "a tensor of Meta's");
    all.push_back({tensor.stored.tensor, tensor.stored.tensor->name, matrix_of(tensor)});
    report.matrices += all.back().matrix ? 1U : 0U;
  }
  std::vector<PlannedTensor> plan;
  for (Work& work : all) {
    if (work.name.ends_with(before)) {
      const std::string_view weight = std::string_view(work.name).substr(0, work.name.size() - before.size());
      const bool changes =
          std::ranges::any_of(all, [&](const Work& other) { return other.matrix && other.tensor->name == weight; });
      if (changes) work.name = concat(weight, after);
    }
    plan.push_back({work.name, work.tensor->dtype, work.tensor->shape});
  }

  CheckpointWriter writer(to, std::move(plan), std::move(options));
  for (std::size_t i = 0; i < all.size(); ++i) {
    const std::span<const std::byte> bytes = all[i].tensor->bytes;
    if (const auto& matrix = all[i].matrix) {
      std::vector<std::uint8_t> codes(bytes.size()), back(bytes.size());
      const std::size_t row_bytes = matrix->columns / 2;
      if (packs) {
        pack_codes<Layout>(matrix->codes, matrix->rows, row_bytes, codes.data());
        unpack_codes<Layout>(codes.data(), matrix->rows, row_bytes, back.data());
      } else {
        unpack_codes<Layout>(matrix->codes, matrix->rows, row_bytes, codes.data());
        pack_codes<Layout>(codes.data(), matrix->rows, row_bytes, back.data());
      }
      check<format_error>(std::ranges::equal(std::as_bytes(std::span(back)), bytes), [&] {
        return Fault{
            .file = from, .field = all[i].name, .expected = "the same bytes after the way there and back", .found = "others"};
      });
      writer.write(i, 0, std::as_bytes(std::span(codes)));
    } else {
      writer.write(i, 0, bytes);
    }
    MappedFile::forget(bytes);
    done();
  }
  for (const std::string& name : settings_files(from)) writer.copy_file(concat(from, '/', name), name);
  writer.commit();
  return report;
}

}  // namespace mllama
