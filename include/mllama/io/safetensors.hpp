// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <limits>
#include <map>
#include <mllama/core/check.hpp>
#include <mllama/io/json.hpp>
#include <mllama/io/mapped_file.hpp>
#include <mllama/io/output_file.hpp>
#include <numeric>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

/// Safetensors files: a JSON header that names tensors, and their bytes.

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
    return std::accumulate(shape.begin(), shape.end(), std::size_t{1}, [](std::size_t a, std::size_t b) { return a * b; });
  }
};

/// What a file may say about itself.
using Metadata = std::map<std::string, std::string, std::less<>>;

namespace detail {

struct SafetensorsLimits {
  static constexpr std::size_t header_bytes = 100'000'000, tensors = 1'000'000, metadata = 100'000, rank = 8, depth = 4;
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

/// Reads the header while it is parsed: a hundred megabytes of text never become a document. The depth says what a value is:
/// 1 inside the header, 2 inside a tensor's entry or the metadata, 3 inside shape or data_offsets.
class SafetensorsHeader final : public JsonReceiver {
 public:
  struct Entry {
    FileTensor tensor;
    std::size_t begin = 0, end = 0;
  };
  std::vector<Entry> entries;
  Metadata metadata;

  explicit SafetensorsHeader(std::string_view file)
      : JsonReceiver(file, {.depth = SafetensorsLimits::depth, .values = SafetensorsLimits::header_bytes, .bytes = 0}) {}

  bool null() override { return other("null"); }
  bool boolean(bool value) override { return other(concat(value)); }
  bool number_float(number_float_t, const string_t& text) override { return other(text); }
  bool number_integer(number_integer_t value) override { return other(value == 0 ? "-0" : concat(value)); }  // had a sign
  bool number_unsigned(number_unsigned_t value) override {
    if (depth() != 3 || member_ == Member::unknown) return other(concat(value));
    if (!std::in_range<std::int64_t>(value)) reject(concat(value));
    const std::size_t most = member_ == Member::shape ? SafetensorsLimits::rank : 2;
    Shape& numbers = member_ == Member::shape ? entries.back().tensor.shape : offsets_;
    if (numbers.size() == most) fail(concat(name(member_), " has more than ", most, " numbers"), name_);
    numbers.push_back(static_cast<std::size_t>(value));
    return true;
  }
  bool string(string_t& value) override {
    if (depth() != 2 || (!in_metadata_ && member_ != Member::dtype)) return other(concat('"', value, '"'));
    if (in_metadata_) {
      if (metadata.size() == SafetensorsLimits::metadata) fail("has too many entries", "__metadata__");
      if (!metadata.emplace(name_, std::move(value)).second) fail("the key occurs twice", concat("__metadata__.", name_));
      return true;
    }
    const auto found = std::ranges::find(dtype_facts, std::string_view(value), &DtypeFacts::name);
    if (found == dtype_facts.end()) reject(concat('"', value, '"'));
    entries.back().tensor.dtype = static_cast<Dtype>(found - dtype_facts.begin());
    return true;
  }
  bool start_object(std::size_t) override {
    if (depth() == 1) {
      in_metadata_ = name_ == "__metadata__";
      in_metadata_ ? begin_metadata() : begin_entry();
    } else if (depth() != 0) {
      other("an object");
    }
    open();
    return true;
  }
  bool end_object() override {
    close();
    if (depth() == 1 && !in_metadata_) end_entry();
    return true;
  }
  bool start_array(std::size_t) override {
    const bool numbers = depth() == 2 && !in_metadata_ && (member_ == Member::shape || member_ == Member::data_offsets);
    if (!numbers) other("an array");
    open();
    return true;
  }
  bool end_array() override {
    close();
    return true;
  }
  bool key(string_t& text) override {
    if (depth() == 1 || (depth() == 2 && in_metadata_)) {
      name_ = std::move(text);
    } else if (depth() == 2) {
      member_ = text == "dtype"          ? Member::dtype
                : text == "shape"        ? Member::shape
                : text == "data_offsets" ? Member::data_offsets
                                         : Member::unknown;
      if (member_ != Member::unknown && std::exchange(has_[static_cast<std::size_t>(member_)], true)) {
        fail(concat("has ", text, " twice"), name_);
      }
    }
    return true;
  }

 private:
  enum class Member : std::uint8_t { dtype, shape, data_offsets, unknown };

  static constexpr std::string_view name(Member member) {
    return std::array<std::string_view, 4>{"dtype", "shape", "data_offsets", "member"}[static_cast<std::size_t>(member)];
  }

  [[noreturn]] void reject(std::string_view found) const {
    std::string field = name_;
    std::string_view expected = depth() == 0 ? "a JSON object that names tensors" : "an object with dtype, shape and data_offsets";
    if (depth() >= 2 && in_metadata_) {
      field = concat("__metadata__.", name_);
      expected = "a string";
    } else if (depth() >= 2) {
      field = concat(name_, ".", name(member_));
      expected = member_ == Member::dtype ? "the name of an element type"
                                          : "an array of integers from 0 to 2^63-1, without sign, fraction or exponent";
    }
    fail({.file = {}, .field = std::move(field), .expected = std::string(expected), .found = std::string(found), .note = {}});
  }
  /// A value of a kind that has no meaning where it stands. Members of an entry that the format does not name are left to later
  /// versions of it.
  bool other(std::string_view found) const {
    if (depth() < 2 || in_metadata_ || member_ != Member::unknown) reject(found);
    return true;
  }

  void begin_metadata() {
    if (std::exchange(has_metadata_, true)) fail("occurs twice", "__metadata__");
  }
  void begin_entry() {
    if (entries.size() == SafetensorsLimits::tensors) fail(concat("more than ", SafetensorsLimits::tensors, " tensors"));
    if (name_.find('\0') != std::string::npos) fail("a tensor's name holds NUL", name_);
    entries.emplace_back();
    entries.back().tensor.name = name_;
    offsets_.clear();
    has_ = {};
  }
  void end_entry() {
    for (const Member member : {Member::dtype, Member::shape, Member::data_offsets}) {
      if (!has_[static_cast<std::size_t>(member)]) fail(concat(name(member), " is missing"), entries.back().tensor.name);
    }
    if (offsets_.size() != 2) fail(concat("data_offsets has ", offsets_.size(), " numbers, not 2"), entries.back().tensor.name);
    entries.back().begin = offsets_[0];
    entries.back().end = offsets_[1];
  }

  Member member_ = Member::unknown;
  bool in_metadata_ = false, has_metadata_ = false;
  std::array<bool, 3> has_{};
  std::string name_;  ///< the last key above the members
  Shape offsets_;
};

/// Checks everything that the format demands of a header, `text`, in front of `data_size` bytes, and returns its tensors in the
/// order of their bytes.
[[nodiscard]] inline SafetensorsHeader read_safetensors_header(std::string_view text, std::size_t data_size,
                                                               std::string_view file) {
  const auto fail = [&](std::string_view tensor, std::string expected, std::string found, std::string note = {}) {
    throw format_error(Fault{.file = std::string(file),
                             .field = std::string(tensor),
                             .expected = std::move(expected),
                             .found = std::move(found),
                             .note = std::move(note)});
  };
  SafetensorsHeader header(file);
  // White space in front is tolerated, as by the reference; the byte order mark that the JSON parser would skip is not.
  if (text.starts_with("\xef\xbb\xbf")) fail({}, {}, {}, "the header begins with a byte order mark");
  parse_json(text, file, {.bytes = SafetensorsLimits::header_bytes}, header);

  auto& entries = header.entries;
  std::ranges::sort(entries, {}, [](const auto& entry) { return std::string_view(entry.tensor.name); });
  const auto twice = std::ranges::adjacent_find(entries, {}, [](const auto& entry) { return std::string_view(entry.tensor.name); });
  if (twice != entries.end()) fail(twice->tensor.name, {}, {}, "two tensors have this name");

  std::ranges::sort(entries, {}, [](const auto& entry) { return std::pair(entry.begin, entry.end); });
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
  return header;
}

/// A JSON string.
[[nodiscard]] inline std::string quoted(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    if (const auto byte = static_cast<unsigned char>(c); byte < 0x20) {
      static constexpr std::string_view hex = "0123456789abcdef";
      out += "\\u00";
      out += hex[byte >> 4U];
      out += hex[byte & 15U];
    } else {
      if (c == '"' || c == '\\') out += '\\';
      out += c;
    }
  }
  return out += '"';
}

}  // namespace detail

/// A safetensors file, mapped. Every rule of the format has been checked; the tensors' bytes are read when they are used.
/// Moving it leaves names and bytes in place.
/// Errors:  file_error; format_error that names the tensor. Beyond the reference reader it rejects equal names, names with NUL,
/// more
///          than 8 axes, a million tensors or 100 000 metadata entries.
class Safetensors {
 public:
  explicit Safetensors(const std::string& path) : file_(path) {
    const auto fail = [&](std::string expected, std::string found) {
      throw format_error(
          Fault{.file = path, .field = "header", .expected = std::move(expected), .found = std::move(found), .note = {}});
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
    std::ranges::sort(tensors_, {}, &FileTensor::name);
  }

  /// Sorted by name.
  [[nodiscard]] std::span<const FileTensor> tensors() const noexcept { return tensors_; }
  [[nodiscard]] const Metadata& metadata() const noexcept { return metadata_; }
  /// Null if there is none of that name.
  [[nodiscard]] const FileTensor* find(std::string_view name) const noexcept {
    const auto place = std::ranges::lower_bound(tensors_, name, {}, [](const FileTensor& t) { return std::string_view(t.name); });
    return place != tensors_.end() && place->name == name ? &*place : nullptr;
  }

 private:
  MappedFile file_;
  std::vector<FileTensor> tensors_;
  Metadata metadata_;
};

/// Writes a file in the order and with the padding of the reference writer: widest element type first, then by name, header filled
/// up with spaces so that every tensor is aligned. The same input gives the same bytes. The file appears complete or not at all.
/// Errors:  file_error; format_error if the tensors break the format (equal names, bytes that do not fit the shape, names that are
///          not UTF-8).
inline void write_safetensors(const std::string& path, std::span<const FileTensor> tensors, const Metadata& metadata = {}) {
  std::vector<const FileTensor*> order;
  for (const FileTensor& tensor : tensors) order.push_back(&tensor);
  std::ranges::sort(order, [](const FileTensor* a, const FileTensor* b) {
    return a->dtype != b->dtype ? a->dtype > b->dtype : a->name < b->name;
  });

  std::string header = "{";
  const auto separate = [&header] {
    if (header.size() > 1) header += ',';
  };
  if (!metadata.empty()) {
    header += "\"__metadata__\":{";
    bool first = true;
    for (const auto& [key, value] : metadata) {
      if (!std::exchange(first, false)) header += ',';
      header += concat(detail::quoted(key), ":", detail::quoted(value));
    }
    header += '}';
  }
  std::size_t end = 0;
  for (const FileTensor* tensor : order) {
    separate();
    const std::size_t begin = std::exchange(end, end + tensor->bytes.size());
    header += concat(detail::quoted(tensor->name), ":{\"dtype\":\"", name(tensor->dtype), "\",\"shape\":[");
    for (std::size_t axis = 0; axis < tensor->shape.size(); ++axis) header += concat(axis == 0 ? "" : ",", tensor->shape[axis]);
    header += concat("],\"data_offsets\":[", begin, ",", end, "]}");
  }
  header += '}';
  header.append((8 - header.size() % 8) % 8, ' ');
  static_cast<void>(detail::read_safetensors_header(header, end, path));  // what we write, we can read

  std::array<std::byte, 8> length{};
  for (std::size_t i = 0; i < 8; ++i) length[i] = static_cast<std::byte>(header.size() >> (8 * i) & 0xffU);
  OutputFile file(path);
  file.write(length);
  file.write(std::as_bytes(std::span(header)));
  for (const FileTensor* tensor : order) file.write(tensor->bytes);
  file.commit();
}

}  // namespace mllama
