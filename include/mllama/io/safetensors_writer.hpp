// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <mllama/core/check.hpp>
#include <mllama/core/python_json.hpp>
#include <mllama/io/output_file.hpp>
#include <mllama/io/safetensors.hpp>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

/// Writes what safetensors.hpp reads, byte for byte as the reference writer does.

namespace mllama {

namespace detail {

/// What a header says about a tensor; its place is behind those before it.
struct HeaderTensor {
  std::string_view name;
  Dtype dtype = Dtype::F32;
  std::span<const std::size_t> shape;
  std::size_t bytes = 0;

  /// The reference's: widest element type first, then by name, so that every tensor is aligned if the first one is.
  static bool in_file_order(const HeaderTensor& a, const HeaderTensor& b) {
    return a.dtype != b.dtype ? a.dtype > b.dtype : a.name < b.name;
  }
};

/// What stands in front of tensors of this order: the length in 8 bytes, the JSON text, and spaces up to the next multiple of 8, or
/// up to `room` bytes.
/// Errors:  format_error if a reader would refuse it.
template <class = void>  // a template, so that bodies are compiled where they are used and not with every include
[[nodiscard]] std::string safetensors_header(std::span<const HeaderTensor> tensors, const Metadata& metadata,
                                             const std::string& file, std::size_t room = 0) {
  std::string text(8, '\0');
  char separator = '{';
  const auto member = [&](std::string_view key) {
    text += std::exchange(separator, ',');
    append_python_string(text, key);
    text += ':';
  };
  if (!metadata.empty()) {
    member("__metadata__");
    separator = '{';
    for (const auto& [key, value] : metadata) {
      member(key);
      append_python_string(text, value);
    }
    text += '}';
  }
  std::size_t end = 0;
  for (const HeaderTensor& tensor : tensors) {
    const std::size_t begin = std::exchange(end, end + tensor.bytes);
    member(tensor.name);
    text += concat("{\"dtype\":\"", name(tensor.dtype), "\",\"shape\":[");
    for (std::size_t axis = 0; axis < tensor.shape.size(); ++axis) text += concat(axis == 0 ? "" : ",", tensor.shape[axis]);
    text += concat("],\"data_offsets\":[", begin, ",", end, "]}");
  }
  text += separator == '{' ? "{}" : "}";
  text.resize(std::max((text.size() + 7) / 8 * 8, room), ' ');
  static_cast<void>(read_safetensors_header(std::string_view(text).substr(8), end, file));  // what we write, we can read
  for (std::size_t i = 0; i < 8; ++i) text[i] = static_cast<char>((text.size() - 8) >> (8 * i) & 0xffU);
  return text;
}

}  // namespace detail

/// Writes a file in the order and with the padding of the reference writer. The same input gives the same bytes. The file appears
/// complete or not at all.
/// Errors:  file_error; format_error if the tensors break the format (equal names, bytes that do not fit the shape, names that are
///          not UTF-8).
template <class = void>  // see safetensors_header
void write_safetensors(const std::string& path, std::span<const FileTensor> tensors, const Metadata& metadata = {}) {
  std::vector<const FileTensor*> order;
  order.reserve(tensors.size());
  for (const FileTensor& tensor : tensors) order.push_back(&tensor);
  const auto entry = [](const FileTensor* tensor) {
    return detail::HeaderTensor{tensor->name, tensor->dtype, tensor->shape, tensor->bytes.size()};
  };
  std::sort(order.begin(), order.end(),
            [&](const FileTensor* a, const FileTensor* b) { return detail::HeaderTensor::in_file_order(entry(a), entry(b)); });
  std::vector<detail::HeaderTensor> entries;
  entries.reserve(order.size());
  for (const FileTensor* tensor : order) entries.push_back(entry(tensor));
  const std::string header = detail::safetensors_header(entries, metadata, path);

  OutputFile file(path);
  file.write(std::as_bytes(std::span(header)));
  for (const FileTensor* tensor : order) file.write(tensor->bytes);
  file.commit();
}

}  // namespace mllama
