// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <mllama/core/check.hpp>
#include <mllama/core/json.hpp>
#include <mllama/io/mapped_file.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

/// Safetensors files: a JSON header that names tensors, and their bytes. Those that write them are in safetensors_writer.hpp.

namespace mllama {

/// Element types, narrowest first as the reference writer orders them.
enum class Dtype : std::uint8_t {
  BOOL,
  F4,
  F6_E2M3,
  F6_E3M2,
  U8,
  I8,
  F8_E5M2,
  F8_E4M3,
  F8_E8M0,
  F8_E4M3FNUZ,
  F8_E5M2FNUZ,
  I16,
  U16,
  F16,
  BF16,
  I32,
  U32,
  F32,
  F64,
  I64,
  U64,
  C64
};

namespace detail {
struct DtypeFacts {
  std::string_view name;
  std::size_t bits;
};
inline constexpr auto dtype_facts = std::to_array<DtypeFacts>({
    {"BOOL", 8},    {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6},     {"U8", 8},          {"I8", 8},
    {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8}, {"I16", 16},
    {"U16", 16},    {"F16", 16},    {"BF16", 16},   {"I32", 32},        {"U32", 32},        {"F32", 32},
    {"F64", 64},    {"I64", 64},    {"U64", 64},    {"C64", 64},
});
static_assert(dtype_facts[static_cast<std::size_t>(Dtype::C64)].name == "C64");
}  // namespace detail

/// As files spell it.
[[nodiscard]] constexpr std::string_view name(Dtype dtype) noexcept {
  return detail::dtype_facts[static_cast<std::size_t>(dtype)].name;
}
/// Of one element.
[[nodiscard]] constexpr std::size_t bits(Dtype dtype) noexcept { return detail::dtype_facts[static_cast<std::size_t>(dtype)].bits; }

using Shape = std::vector<std::size_t>;

/// `[2, 3]`
[[nodiscard]] inline std::string to_string(std::span<const std::size_t> shape) {
  std::string out = "[";
  for (const std::size_t length : shape) {
    if (out.size() > 1) out += ", ";
    out += concat(length);
  }
  return out += ']';
}

/// A tensor of a file, or one to be written. Refers to the bytes; in a file they need not be aligned.
struct FileTensor {
  std::string name;
  Dtype dtype = Dtype::F32;
  Shape shape;
  std::span<const std::byte> bytes;

  [[nodiscard]] std::size_t size() const noexcept {
    std::size_t product = 1;
    for (const std::size_t length : shape) product *= length;
    return product;
  }
};

/// What a file may say about itself.
using Metadata = std::map<std::string, std::string, std::less<>>;

namespace detail {

struct SafetensorsLimits {
  static constexpr std::size_t header_bytes = 100'000'000, tensors = 1'000'000, metadata = 100'000, rank = 8, name_bytes = 4096;
  static constexpr JsonLimits json{.depth = 4, .values = 16 * tensors, .bytes = header_bytes};
};

/// Bytes of a tensor; nothing if that is no whole number of bytes or overflows.
[[nodiscard]] inline std::optional<std::size_t> tensor_bytes(Dtype dtype, std::span<const std::size_t> shape) {
  std::size_t product = bits(dtype);
  bool overflow = false;
  for (const std::size_t length : shape) {
    // A length of zero makes the tensor empty, but does not excuse the other lengths: the reference multiplies them in order.
    overflow = overflow || (length != 0 && product > std::numeric_limits<std::size_t>::max() / length);
    product *= length;
  }
  if (overflow || product % 8 != 0) return std::nullopt;
  return product / 8;
}

/// A header, read but for what its tensors' places have to do with each other.
struct SafetensorsHeader {
  struct Entry {
    FileTensor tensor;
    std::size_t begin = 0, end = 0;

    static bool by_name(const Entry& a, const Entry& b) { return a.tensor.name < b.tensor.name; }
    static bool by_place(const Entry& a, const Entry& b) { return a.begin != b.begin ? a.begin < b.begin : a.end < b.end; }
  };
  std::vector<Entry> entries;
  Metadata metadata;

  explicit SafetensorsHeader(const JsonField& root) {
    root.view(JsonView::Kind::object, "an object that names tensors").for_each_member([&](JsonView key, JsonView value) {
      const JsonField field = root.member(key.string(), value);
      key.spells("__metadata__") ? read_metadata(field) : read_entry(key.string(), field);
    });
  }

 private:
  void read_metadata(const JsonField& field) {
    field.view(JsonView::Kind::object, "an object of strings").for_each_member([&](JsonView key, JsonView value) {
      if (metadata.size() == SafetensorsLimits::metadata) field.fail(concat("at most ", SafetensorsLimits::metadata, " members"));
      const std::string name = key.string();
      metadata.emplace(name, field.member(name, value).as<std::string>());
    });
  }

  /// Members that the format does not name are left to later versions of it.
  void read_entry(std::string name, const JsonField& field) {
    if (entries.size() == SafetensorsLimits::tensors) field.fail(concat("at most ", SafetensorsLimits::tensors, " tensors"));
    if (name.find('\0') != std::string::npos) field.fail("a name without NUL");
    if (name.size() > SafetensorsLimits::name_bytes)
      field.fail(concat("a name of at most ", SafetensorsLimits::name_bytes, " bytes"));
    static_cast<void>(field.view(JsonView::Kind::object, "an object with dtype, shape and data_offsets"));
    const Shape offsets = numbers(field["data_offsets"], 2);
    if (offsets.size() != 2) field["data_offsets"].fail("two numbers");
    entries.push_back({{.name = std::move(name),
                        .dtype = dtype(field["dtype"]),
                        .shape = numbers(field["shape"], SafetensorsLimits::rank),
                        .bytes = {}},
                       offsets[0],
                       offsets[1]});
  }

  static Dtype dtype(const JsonField& field) {
    const std::string name = field.view(JsonView::Kind::string, "the name of an element type").string();
    for (std::size_t i = 0; i < dtype_facts.size(); ++i) {
      if (dtype_facts[i].name == name) return static_cast<Dtype>(i);
    }
    field.fail("the name of an element type");
  }

  static Shape numbers(const JsonField& field, std::size_t most) {
    Shape lengths;
    for (const JsonField& length : field.elements(most)) {
      lengths.push_back(length.integer<std::size_t>(0, std::numeric_limits<std::int64_t>::max()));
    }
    return lengths;
  }
};

/// Checks everything that the format demands of a header, `text`, in front of `data_size` bytes. Its tensors are sorted by name.
template <class = void>  // see Safetensors
[[nodiscard]] SafetensorsHeader read_safetensors_header(std::string_view text, std::size_t data_size, const std::string& file) {
  const auto fail = [&](std::string_view tensor, std::string expected, std::string found, std::string note = {}) {
    throw format_error(Fault{.file = file,
                             .field = std::string(tensor),
                             .expected = std::move(expected),
                             .found = std::move(found),
                             .note = std::move(note)});
  };
  SafetensorsHeader header(parse_json(text, file, SafetensorsLimits::json));
  auto& entries = header.entries;
  std::sort(entries.begin(), entries.end(), SafetensorsHeader::Entry::by_place);
  std::size_t begin = 0;
  for (const auto& [tensor, first, last] : entries) {
    // No hole, no overlap: a byte belongs to one tensor.
    if (first != begin || last < first) {
      fail(tensor.name, concat("bytes from ", begin, " on"), concat("data_offsets [", first, ", ", last, "]"));
    }
    const auto size = tensor_bytes(tensor.dtype, tensor.shape);
    const auto what = concat(mllama::name(tensor.dtype), " ", to_string(tensor.shape));
    if (!size) fail(tensor.name, "a whole number of bytes below 2^64", what);
    if (*size != last - first) fail(tensor.name, concat(*size, " bytes for ", what), concat(last - first));
    begin = last;
  }
  if (begin != data_size)
    fail({}, concat(begin, " bytes of tensors"), concat(data_size), "the file is cut short or has trailing bytes");
  std::sort(entries.begin(), entries.end(), SafetensorsHeader::Entry::by_name);
  return header;
}

}  // namespace detail

/// A safetensors file, mapped. Every rule of the format has been checked; the tensors' bytes are read when they are used.
/// Moving it leaves names and bytes in place.
/// Errors:  file_error; format_error that names the tensor. Beyond the reference reader it rejects equal names, names with NUL
///          or of more than 4096 bytes, more than 8 axes, a million tensors or 100 000 metadata entries.
template <class = void>  // a template, so that bodies are compiled where they are used and not with every include
class BasicSafetensors {
 public:
  explicit BasicSafetensors(const std::string& path) : file_(path) {
    const auto fail = [&](std::string expected, std::string found) {
      throw format_error(Fault{.file = path, .field = "header", .expected = std::move(expected), .found = std::move(found)});
    };
    const std::span<const std::byte> bytes = file_.bytes();
    if (bytes.size() < 8) fail("a safetensors file of at least 8 bytes", concat(bytes.size(), " bytes"));
    std::uint64_t length = 0;
    for (std::size_t i = 8; i-- > 0;) length = length << 8U | std::to_integer<std::uint64_t>(bytes[i]);
    if (length > detail::SafetensorsLimits::header_bytes) {
      fail(concat("a length of at most ", detail::SafetensorsLimits::header_bytes), concat(length));
    }
    if (length > bytes.size() - 8) fail(concat(length, " bytes"), concat(bytes.size() - 8));
    const std::span<const std::byte> data = bytes.subspan(8 + static_cast<std::size_t>(length));

    auto header = detail::read_safetensors_header(file_.text().substr(8, static_cast<std::size_t>(length)), data.size(), path);
    metadata_ = std::move(header.metadata);
    tensors_.reserve(header.entries.size());
    for (auto& entry : header.entries) {
      entry.tensor.bytes = data.subspan(entry.begin, entry.end - entry.begin);
      tensors_.push_back(std::move(entry.tensor));
    }
  }

  /// Sorted by name.
  [[nodiscard]] std::span<const FileTensor> tensors() const noexcept { return tensors_; }
  [[nodiscard]] const Metadata& metadata() const noexcept { return metadata_; }
  /// Null if there is none of that name.
  [[nodiscard]] const FileTensor* find(std::string_view name) const noexcept {
    const auto place = std::lower_bound(tensors_.begin(), tensors_.end(), name,
                                        [](const FileTensor& tensor, std::string_view key) { return tensor.name < key; });
    return place != tensors_.end() && place->name == name ? &*place : nullptr;
  }

 private:
  MappedFile file_;
  std::vector<FileTensor> tensors_;
  Metadata metadata_;
};
using Safetensors = BasicSafetensors<>;
#if defined(MLLAMA_ELSEWHERE)
extern template class BasicSafetensors<>;
#endif

}  // namespace mllama
