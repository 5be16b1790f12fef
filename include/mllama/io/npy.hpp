// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <mllama/core/check.hpp>
#include <mllama/core/tensor.hpp>
#include <mllama/io/mapped_file.hpp>
#include <mllama/io/output_file.hpp>

/// Arrays of NumPy in files, one each.
/// Source:  https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html

namespace mllama {

namespace detail {

static_assert(std::endian::native == std::endian::little, "npy: elements are stored in the order of the processor's bytes");

/// NumPy's name of an element type.
template <class T>
[[nodiscard]] std::string npy_type() {
  static_assert(std::is_arithmetic_v<T>, "npy: elements are integers or floating-point numbers");
  const char kind = std::is_same_v<T, bool> ? 'b' : std::is_floating_point_v<T> ? 'f' : std::is_signed_v<T> ? 'i' : 'u';
  return concat(sizeof(T) == 1 ? "|" : "<", std::string_view(&kind, 1), sizeof(T));
}

inline constexpr std::string_view npy_magic = "\x93NUMPY";

/// What stands in front of the elements: as `numpy.save` writes it, which leaves room for a longer first axis.
[[nodiscard]] inline std::string npy_header(std::string_view type, std::span<const std::size_t> shape) {
  std::string text = concat("{'descr': '", type, "', 'fortran_order': False, 'shape': (");
  for (std::size_t axis = 0; axis < shape.size(); ++axis) text += concat(axis == 0 ? "" : ", ", shape[axis]);
  text += shape.size() == 1 ? ",), }" : "), }";
  constexpr std::size_t digits = 21, fixed = 10, multiple = 64;
  if (!shape.empty()) text.append(digits - concat(shape[0]).size(), ' ');
  text.append(multiple - (fixed + text.size() + 1) % multiple, ' ');
  text += '\n';
  const auto size = static_cast<std::uint16_t>(text.size());
  return concat(npy_magic, std::string_view("\1\0", 2), std::string_view(reinterpret_cast<const char*>(&size), 2), text);
}

}  // namespace detail

/// Writes elements as `numpy.load` reads them.
/// Errors:  file_error, with the system's reason; the file is complete or not there.
template <class T>
void write_npy(const std::string& path, std::span<const T> elements, std::span<const std::size_t> shape) {
  OutputFile file(path);
  const std::string header = detail::npy_header(detail::npy_type<T>(), shape);
  file.write(std::as_bytes(std::span(header)));
  file.write(std::as_bytes(elements));
  file.commit();
}
template <class T, Axis... Axes>
void write_npy(const std::string& path, View<T, Axes...> view) {
  std::array<std::size_t, sizeof...(Axes)> shape{};
  for (std::size_t axis = 0; axis < shape.size(); ++axis) shape[axis] = view.length(axis);
  write_npy<std::remove_const_t<T>>(path, view.flat(), shape);
}

/// An array in a file, mapped into memory.
/// Errors:  file_error if it can't be read; format_error, with what was expected and found, if it is not an array of numbers in C order.
class NpyFile {
 public:
  explicit NpyFile(const std::string& path) : file_(path), path_(path) { read(); }

  /// NumPy's name of the elements' type: `<f4`.
  [[nodiscard]] const std::string& type() const noexcept { return type_; }
  [[nodiscard]] const std::vector<std::size_t>& shape() const noexcept { return shape_; }
  [[nodiscard]] std::span<const std::byte> bytes() const noexcept { return bytes_; }

  /// The elements, which live as long as this.
  /// Errors:  format_error if they are of another type, or not aligned (headers of format 1 as NumPy writes them align them).
  template <class T>
  [[nodiscard]] std::span<const T> elements() const {
    require(
        type_ == detail::npy_type<T>(), "descr", [] { return detail::npy_type<T>(); }, type_);
    require(
        reinterpret_cast<std::uintptr_t>(bytes_.data()) % alignof(T) == 0, "header", [] { return "a length that aligns elements"; },
        concat(header_size_));
    return {reinterpret_cast<const T*>(bytes_.data()), bytes_.size() / sizeof(T)};
  }

 private:
  static constexpr std::size_t most_axes = 64;

  template <class Expected>
  void require(bool condition, std::string_view field, Expected&& expected, const std::string& found) const {
    check<format_error>(condition, [&] {
      return Fault{.file = path_, .field = std::string(field), .expected = std::string(expected()), .found = found};
    });
  }
  template <class Expected>
  void require_text(bool condition, Expected&& expected) const {
    require(condition, "header", expected, rest_.empty() ? "its end" : concat("\"", rest_.substr(0, 20), "\""));
  }

  void read() {
    const std::string_view text = file_.text();
    require(
        text.starts_with(detail::npy_magic), "file", [] { return "an array of NumPy"; },
        text.size() < detail::npy_magic.size() ? concat(text.size(), " bytes") : "other first bytes");
    const auto byte = [&](std::size_t at) -> unsigned { return at < text.size() ? static_cast<std::uint8_t>(text[at]) : 0U; };
    const unsigned version = byte(6);
    require(
        version >= 1 && version <= 3, "version", [] { return "1, 2 or 3"; }, concat(version));
    std::size_t begin = 8, size = 0;
    for (unsigned i = 0; i < (version == 1 ? 2U : 4U); ++i) size |= std::size_t{byte(begin++)} << 8U * i;
    require(
        begin <= text.size() && size <= text.size() - begin, "header", [&] { return concat(size, " bytes"); },
        concat(text.size() - std::min(begin, text.size())));
    header_size_ = begin + size;
    rest_ = text.substr(begin, size);
    read_header();
    const std::size_t width = element_size();
    std::size_t count = 1;
    for (const std::size_t length : shape_) {
      require(
          length == 0 || count <= text.size() / length, "shape", [&] { return concat("elements in ", text.size(), " bytes"); },
          "more of them");
      count *= length;
    }
    const std::size_t there = text.size() - header_size_;
    require(
        there % width == 0 && there / width == count, "elements", [&] { return concat(count, " of ", width, " bytes"); },
        concat(there, " bytes"));
    bytes_ = file_.bytes().subspan(header_size_);
  }

  /// A dictionary as Python prints it: three keys in any order.
  void read_header() {
    bool has_type = false, has_order = false, has_shape = false;
    take('{');
    while (!skip('}')) {
      const std::string key = quoted();
      take(':');
      bool* const seen = key == "descr" ? &has_type : key == "fortran_order" ? &has_order : key == "shape" ? &has_shape : nullptr;
      require(
          seen != nullptr && !*seen, "header", [] { return "descr, fortran_order and shape, once each"; }, key);
      *seen = true;
      if (key == "descr") {
        type_ = quoted();
      } else if (key == "shape") {
        read_shape();
      } else {
        require_text(word("False"), [] { return "fortran_order False: rows that lie together"; });
      }
      if (!skip(',')) {
        take('}');
        break;
      }
    }
    require(
        has_type && has_order && has_shape, "header", [] { return "descr, fortran_order and shape"; }, "fewer");
    skip_spaces();
    require_text(rest_.empty(), [] { return "nothing behind the dictionary"; });
  }
  void read_shape() {
    take('(');
    while (!skip(')')) {
      skip_spaces();
      std::size_t length = 0;
      const auto [end, fault] = std::from_chars(rest_.data(), rest_.data() + rest_.size(), length);
      require_text(fault == std::errc{}, [] { return "a length"; });
      rest_.remove_prefix(static_cast<std::size_t>(end - rest_.data()));
      shape_.push_back(length);
      require(
          shape_.size() <= most_axes, "shape", [] { return concat("at most ", most_axes, " axes"); }, "more");
      if (!skip(',')) {
        take(')');
        break;
      }
    }
  }
  [[nodiscard]] std::size_t element_size() const {
    constexpr std::array<std::string_view, 13> known{"|b1", "|i1", "|u1", "<i2", "<u2", "<f2", "<i4",
                                                     "<u4", "<f4", "<i8", "<u8", "<f8", "<c8"};
    require(
        std::find(known.begin(), known.end(), type_) != known.end(), "descr", [] { return "numbers: <f4, <i8, |u1 …"; }, type_);
    return static_cast<std::size_t>(type_.back() - '0');
  }

  void skip_spaces() noexcept { rest_.remove_prefix(std::min(rest_.find_first_not_of(" \t\r\n"), rest_.size())); }
  bool word(std::string_view expected) noexcept {
    skip_spaces();
    if (!rest_.starts_with(expected)) return false;
    rest_.remove_prefix(expected.size());
    return true;
  }
  bool skip(char expected) noexcept { return word({&expected, 1}); }
  void take(char expected) {
    require_text(skip(expected), [&] { return std::string(1, expected); });
  }
  std::string quoted() {
    skip_spaces();
    const char mark = rest_.empty() ? '\0' : rest_[0];
    const std::size_t end = mark == '\'' || mark == '"' ? rest_.find(mark, 1) : std::string_view::npos;
    require_text(end < 64, [] { return "a short text in quotes"; });
    std::string text(rest_.substr(1, end - 1));
    rest_.remove_prefix(end + 1);
    return text;
  }

  MappedFile file_;
  std::string path_, type_;
  std::vector<std::size_t> shape_;
  std::span<const std::byte> bytes_;
  std::size_t header_size_ = 0;
  std::string_view rest_;  ///< of the header, while it is read
};

}  // namespace mllama
