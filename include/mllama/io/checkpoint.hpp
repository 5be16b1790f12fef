// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <mllama/core/check.hpp>
#include <mllama/core/format.hpp>
#include <mllama/core/workspace.hpp>
#include <mllama/io/json.hpp>
#include <mllama/io/safetensors.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

/// The tensors of a model folder as Hugging Face saves it: one file or several, under any of its naming layouts, float or
/// quantised by bitsandbytes, each tensor for itself.

namespace mllama {

/// A tensor's name without the leading components `model` and `language_model`, which differ between releases of transformers and
/// between whole and text-only saves: what remains is the same in all of them.
[[nodiscard]] constexpr std::string_view canonical_name(std::string_view key) noexcept {
  while (true) {
    if (key.starts_with("model.")) {
      key.remove_prefix(std::string_view("model.").size());
    } else if (key.starts_with("language_model.")) {
      key.remove_prefix(std::string_view("language_model.").size());
    } else {
      return key;
    }
  }
}

namespace detail {

/// The element type that a dense format is stored in.
template <DenseFormat F>
[[nodiscard]] constexpr Dtype dtype_of() {
  constexpr auto found = std::ranges::find(dtype_facts, F::name, &DtypeFacts::name);
  static_assert(found != dtype_facts.end(), "a dense format has the name of an element type of safetensors");
  return static_cast<Dtype>(found - dtype_facts.begin());
}

/// bitsandbytes' name of a block format: `nf4`.
template <BlockFormat F>
[[nodiscard]] std::string quant_type() {
  std::string name(F::name);
  for (char& c : name) c = static_cast<char>(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c);
  return name;
}

template <class F>
struct FormatList {
  template <class Use>
  static bool any(Use&& use) {
    return use.template operator()<F>();
  }
};
template <class... Fs>
struct FormatList<AnyOf<Fs...>> {
  template <class Use>
  static bool any(Use&& use) {
    return (use.template operator()<Fs>() || ...);
  }
};

/// True if a float is NaN or infinite; looks at bits, so that the loop is a vector loop without -ffast-math's doubts.
[[nodiscard]] inline bool all_finite(const float* values, std::size_t count) noexcept {
  unsigned found = 0;
  for (std::size_t i = 0; i < count; ++i) {
    found |= static_cast<unsigned>((std::bit_cast<std::uint32_t>(values[i]) & 0x7f800000U) == 0x7f800000U);
  }
  return found == 0;
}

}  // namespace detail

/// A model folder, opened. Weights that it has bound point into it: it must outlive them, and may be moved.
class Checkpoint {
 public:
  /// Opens `model.safetensors`, or else all files that `model.safetensors.index.json` names.
  /// Errors:  file_error if neither is there or a file cannot be read; format_error if a file breaks its format, if index and files
  ///          contradict each other, or if two tensors have the same canonical name.
  [[nodiscard]] static Checkpoint open(const std::string& folder) {
    Checkpoint checkpoint(folder);
    const std::string single = folder + "/model.safetensors", index = folder + "/model.safetensors.index.json";
    if (detail::exists(single)) {
      checkpoint.add(single);
    } else if (detail::exists(index)) {
      checkpoint.add_shards(index);
    } else {
      throw file_error(Fault{.file = folder,
                             .field = {},
                             .expected = "model.safetensors or model.safetensors.index.json",
                             .found = detail::exists(folder) ? "neither" : "no such folder",
                             .note = {}});
    }
    checkpoint.sort();
    return checkpoint;
  }

  /// The tensor of this canonical name, or null.
  [[nodiscard]] const FileTensor* find(std::string_view name) const noexcept {
    const Entry* const entry = find_entry(name);
    return entry == nullptr ? nullptr : entry->tensor;
  }

  /// Points `weights` at the tensor `name`, which must have the shape `shape` ([out, in] for a matrix; rows are its first length,
  /// columns all others).
  ///   * 4-bit blocks, if the format has them: in place, nested and plain scales.
  ///   * A float type of the format: in place; copied if it is not aligned.
  ///   * Another float type, if the format has F32: F16 and BF16 are widened into memory that the checkpoint owns.
  /// Errors:  shape_error that names file, tensor, expected and found; format_error if a quantised tensor is damaged.
  /// Source:  bitsandbytes `QuantState.from_dict`; what it takes on trust is checked here.
  template <WeightFormat F>
  void bind(Weights<F>& weights, std::string_view name, std::span<const std::size_t> shape) {
    using Formats = detail::FormatList<F>;
    Entry& entry = require(name, shape);
    const std::string_view quant_type = quant_type_of(entry);
    const bool as_stored = Formats::template any([&]<class G>() {
      Weights<G> found;
      if constexpr (BlockFormat<G>) {
        if (quant_type != detail::quant_type<G>()) return false;
        const Blocks blocks = read_blocks(entry, quant_type, G::table, shape);
        found = {.codes = blocks.codes,
                 .rows = shape[0],
                 .columns = shape[1],
                 .block = blocks.block,
                 .absmax = blocks.absmax,
                 .absmax_codes = blocks.absmax_codes,
                 .nested_absmax = blocks.nested_absmax,
                 .nested_map = blocks.nested_map,
                 .nested_block = blocks.nested_block,
                 .nested_offset = blocks.nested_offset};
      } else {
        if (!quant_type.empty() || entry.tensor->dtype != detail::dtype_of<G>()) return false;
        check_dense(entry, shape);
        found = {.data = elements<typename G::stored>(entry), .rows = shape[0], .columns = columns(shape)};
      }
      assign(weights, found);
      return true;
    });
    if (as_stored) return;
    const bool widened = quant_type.empty() && Formats::template any([&]<class G>() {
                           if constexpr (!std::same_as<G, F32>) {
                             return false;
                           } else {
                             if (entry.tensor->dtype != Dtype::BF16 && entry.tensor->dtype != Dtype::F16) return false;
                             check_dense(entry, shape);
                             assign(weights, Weights<F32>{.data = widen(entry), .rows = shape[0], .columns = columns(shape)});
                             return true;
                           }
                         });
    if (widened) return;
    std::string expected;
    Formats::template any([&]<class G>() {
      expected += concat(expected.empty() ? "" : ", ", G::name);
      return false;
    });
    fail_type(entry, std::move(expected), quant_type);
  }

  /// Canonical names that nothing has been bound to: a model that has bound all its members and leaves some over is another model.
  [[nodiscard]] std::vector<std::string_view> unused() const {
    std::vector<std::string_view> names;
    for (const Entry& entry : entries_) {
      if (!entry.used) names.push_back(entry.name);
    }
    return names;
  }

  /// Bytes on disk of all tensors, and bytes of memory that had to be allocated because they could not be used in place.
  [[nodiscard]] std::size_t mapped_bytes() const noexcept {
    std::size_t sum = 0;
    for (const Entry& entry : entries_) sum += entry.tensor->bytes.size();
    return sum;
  }
  [[nodiscard]] std::size_t owned_bytes() const noexcept { return owned_bytes_; }

 private:
  struct File {
    std::string path;
    Safetensors content;
  };
  struct Entry {
    std::string_view name;  ///< canonical; part of the tensor's own
    const FileTensor* tensor;
    std::size_t file;
    bool used = false;
  };
  /// The members of Weights<BlockFormat>, whatever the format.
  struct Blocks {
    const std::uint8_t* codes = nullptr;
    std::size_t block = 0;
    const float* absmax = nullptr;
    const std::uint8_t* absmax_codes = nullptr;
    const float* nested_absmax = nullptr;
    const float* nested_map = nullptr;
    std::size_t nested_block = 256;
    float nested_offset = 0;
  };

  static constexpr std::string_view quant_state_prefix = ".quant_state.bitsandbytes__";

  explicit Checkpoint(std::string folder) : folder_(std::move(folder)) {}

  // ---- opening ----------------------------------------------------------------------------------------------------------------

  const Safetensors& add(std::string path) {
    Safetensors content(path);
    for (const FileTensor& tensor : content.tensors()) {
      entries_.push_back({.name = canonical_name(tensor.name), .tensor = &tensor, .file = files_.size()});
    }
    files_.push_back({std::move(path), std::move(content)});
    return files_.back().content;
  }

  void add_shards(const std::string& index_path) {
    const json document = read_json(index_path);
    const JsonField map = JsonField(document, index_path)["weight_map"];
    if (!map.is_object()) map.fail("an object of tensor names and file names");
    const auto& members = document["weight_map"].get_ref<const json::object_t&>();

    std::map<std::string, std::size_t, std::less<>> keys_of;  // number of keys per shard
    for (const auto& [key, value] : members) {
      const std::string shard = map[key].as<std::string>();
      const bool is_plain =
          !shard.empty() && shard != "." && shard != ".." && shard.find_first_of(std::string_view("/\\\0", 3)) == std::string::npos;
      if (!is_plain) map[key].fail("the name of a file in the same folder");
      ++keys_of[shard];
    }
    for (const auto& [shard, keys] : keys_of) {
      for (const FileTensor& tensor : add(folder_ + '/' + shard).tensors()) {
        const JsonField mapped = map[tensor.name];
        if (!mapped.present() || mapped.as<std::string>() != shard)
          mapped.fail(concat('"', shard, '"'), "the file has a tensor of this name");
      }
      if (files_.back().content.tensors().size() == keys) continue;
      for (const auto& [key, value] : members) {
        if (value.get_ref<const std::string&>() == shard && files_.back().content.find(key) == nullptr)
          map[key].fail("a file that has this tensor");
      }
    }
  }

  void sort() {
    std::ranges::sort(entries_, {}, &Entry::name);
    const auto twice = std::ranges::adjacent_find(entries_, {}, &Entry::name);
    if (twice == entries_.end()) return;
    const Entry& other = *std::next(twice);
    throw format_error(Fault{.file = path(other),
                             .field = other.tensor->name,
                             .expected = {},
                             .found = {},
                             .note = concat("names the same tensor as ", twice->tensor->name, " of ", path(*twice))});
  }

  // ---- looking up -------------------------------------------------------------------------------------------------------------

  [[nodiscard]] const std::string& path(const Entry& entry) const noexcept { return files_[entry.file].path; }

  [[nodiscard]] const Entry* find_entry(std::string_view name) const noexcept {
    const auto place = std::ranges::lower_bound(entries_, name, {}, &Entry::name);
    return place != entries_.end() && place->name == name ? &*place : nullptr;
  }
  [[nodiscard]] Entry* find_entry(std::string_view name) noexcept {
    return const_cast<Entry*>(std::as_const(*this).find_entry(name));
  }

  Entry& require(std::string_view name, std::span<const std::size_t> shape) {
    Entry* const entry = find_entry(name);
    if (entry == nullptr) {
      throw shape_error(Fault{.file = folder_,
                              .field = std::string(name),
                              .expected = concat("a tensor ", to_string(shape)),
                              .found = "none of this name",
                              .note = {}});
    }
    entry->used = true;
    return *entry;
  }

  /// The tensors that belong to a quantised one: their names are its own and more.
  [[nodiscard]] std::span<Entry> companions(const Entry& entry) {
    const std::string begin = concat(entry.name, "."), end = concat(entry.name, "/");  // '/' follows '.'
    const auto first = std::ranges::lower_bound(entries_, std::string_view(begin), {}, &Entry::name);
    const auto last = std::ranges::lower_bound(entries_, std::string_view(end), {}, &Entry::name);
    return {first, last};
  }

  /// What follows `bitsandbytes__` in the key of the tensor's quantisation state; empty for a dense tensor.
  [[nodiscard]] std::string_view quant_type_of(const Entry& entry) {
    std::string_view type;
    for (const Entry& companion : companions(entry)) {
      const std::string_view suffix = companion.name.substr(entry.name.size());
      if (!suffix.starts_with(quant_state_prefix)) continue;
      if (!type.empty()) fail(companion, "one quantisation state per tensor", "a second one");
      type = suffix.substr(quant_state_prefix.size());
      if (type != "nf4" && type != "fp4") fail(companion, "quantisation nf4 or fp4", std::string(type));
    }
    return type;
  }

  // ---- errors -----------------------------------------------------------------------------------------------------------------

  template <class Error = format_error>
  [[noreturn]] void fail(const Entry& entry, std::string expected, std::string found, std::string note = {}) const {
    throw Error(Fault{.file = path(entry),
                      .field = entry.tensor->name,
                      .expected = std::move(expected),
                      .found = std::move(found),
                      .note = std::move(note)});
  }

  [[noreturn]] void fail_type(const Entry& entry, std::string expected, std::string_view quant_type) const {
    const Entry* const is_int8 = find_entry(concat(entry.name.substr(0, entry.name.rfind('.')), ".SCB"));
    const auto found = !quant_type.empty()  ? concat("bitsandbytes ", quant_type)
                       : is_int8 != nullptr ? concat(name(entry.tensor->dtype), " of LLM.int8()")
                                            : std::string(name(entry.tensor->dtype));
    fail<shape_error>(entry, std::move(expected), found, "the model type does not take this storage format here");
  }

  // ---- dense ------------------------------------------------------------------------------------------------------------------

  [[nodiscard]] static std::size_t columns(std::span<const std::size_t> shape) {
    std::size_t product = 1;
    for (const std::size_t length : shape.subspan(1)) product *= length;
    return product;
  }

  void check_dense(const Entry& entry, std::span<const std::size_t> shape) {
    if (shape.empty() || !std::ranges::equal(entry.tensor->shape, shape)) {
      fail<shape_error>(entry, to_string(shape), to_string(entry.tensor->shape));
    }
    const auto others = companions(entry);
    if (!others.empty()) fail(others.front(), "a quantisation state beside it", "none");
  }

  std::byte* own(std::size_t bytes) {
    owned_.push_back(detail::aligned_bytes(bytes));
    owned_bytes_ += bytes;
    return owned_.back().get();
  }

  /// The elements in place, or a copy if the file has them at an odd address.
  template <class T>
  [[nodiscard]] const T* elements(const Entry& entry) {
    const std::span<const std::byte> bytes = entry.tensor->bytes;
    if (reinterpret_cast<std::uintptr_t>(bytes.data()) % alignof(T) == 0) return reinterpret_cast<const T*>(bytes.data());
    std::byte* const copy = own(bytes.size());
    std::memcpy(copy, bytes.data(), bytes.size());
    return reinterpret_cast<const T*>(copy);
  }

  [[nodiscard]] const float* widen(const Entry& entry) {
    const std::span<const std::byte> bytes = entry.tensor->bytes;
    const std::size_t count = bytes.size() / sizeof(std::uint16_t);
    float* const wide = reinterpret_cast<float*>(own(count * sizeof(float)));
    const auto convert = [&]<class F>() {
      for (std::size_t i = 0; i < count; ++i) {
        std::uint16_t narrow = 0;
        std::memcpy(&narrow, bytes.data() + i * sizeof narrow, sizeof narrow);
        wide[i] = F::decode(narrow);
      }
    };
    entry.tensor->dtype == Dtype::BF16 ? convert.operator()<BF16>() : convert.operator()<F16>();
    return wide;
  }

  // ---- blocks -----------------------------------------------------------------------------------------------------------------

  /// What the JSON text of a quantisation state says.
  struct QuantState {
    std::size_t block = 0, nested_block = 0;
    float nested_offset = 0;
  };

  [[nodiscard]] QuantState read_quant_state(const Entry& entry, std::string_view quant_type, std::span<const std::size_t> shape,
                                            bool nested) {
    const std::span<const std::byte> bytes = entry.tensor->bytes;
    const std::string where = concat(path(entry), ": ", entry.tensor->name);
    const json document = parse_json({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, where,
                                     {.depth = 4, .values = 1000, .bytes = 65536});
    const JsonField state(document, where);
    const auto power_of_two = [](const JsonField& field) {
      const auto size = field.integer<std::size_t>(32, 4096);
      if (!std::has_single_bit(size)) field.fail("a power of two from 32 to 4096");
      return size;
    };
    if (const auto type = state["quant_type"]; type.as<std::string>() != quant_type)
      type.fail(concat('"', quant_type, "\", as in the tensor's name"));
    static_cast<void>(state["dtype"].as<std::string>());  // of the weights before quantisation: we decode to float32
    if (const auto stored = state["shape"]; stored.present()) {
      Shape lengths;
      for (const JsonField& length : stored.elements()) lengths.push_back(length.integer<std::size_t>(1, std::size_t{1} << 62U));
      if (!std::ranges::equal(lengths, shape)) fail<shape_error>(entry, to_string(shape), to_string(lengths));
    }
    QuantState result{.block = power_of_two(state["blocksize"])};
    if (nested) {
      result.nested_block = power_of_two(state["nested_blocksize"]);
      if (const auto type = state["nested_dtype"]; type.as<std::string>() != "float32") type.fail("\"float32\"");
      result.nested_offset = state["nested_offset"].as<float>();
    } else {
      for (const std::string_view key : {"nested_blocksize", "nested_dtype", "nested_offset"}) {
        if (state[key].present()) state[key].fail("nothing, for there is no tensor nested_absmax");
      }
    }
    return result;
  }

  [[nodiscard]] Blocks read_blocks(Entry& entry, std::string_view quant_type, const std::array<float, 16>& table,
                                   std::span<const std::size_t> shape) {
    static constexpr std::array<Dtype, 6> storage{Dtype::U8, Dtype::I8, Dtype::F16, Dtype::BF16, Dtype::F32, Dtype::F64};
    if (std::ranges::find(storage, entry.tensor->dtype) == storage.end()) {
      fail(entry, "4-bit codes stored as U8, I8, F16, BF16, F32 or F64", std::string(name(entry.tensor->dtype)));
    }
    if (shape.size() != 2) fail<shape_error>(entry, to_string(shape), "a quantised matrix");
    if (shape[0] == 0 || shape[1] > (std::size_t{1} << 62U) / shape[0])
      fail<shape_error>(entry, "fewer than 2^62 elements", to_string(shape));

    Entry *state_entry = nullptr, *absmax = nullptr, *map = nullptr, *nested_absmax = nullptr, *nested_map = nullptr;
    for (Entry& companion : companions(entry)) {
      const std::string_view suffix = companion.name.substr(entry.name.size());
      companion.used = true;
      if (suffix.starts_with(quant_state_prefix))
        state_entry = &companion;
      else if (suffix == ".absmax")
        absmax = &companion;
      else if (suffix == ".quant_map")
        map = &companion;
      else if (suffix == ".nested_absmax")
        nested_absmax = &companion;
      else if (suffix == ".nested_quant_map")
        nested_map = &companion;
      else
        fail(companion, "a known part of a quantised tensor", std::string(suffix.substr(1)));
    }
    const auto part = [&](const Entry* companion, std::string_view suffix, Dtype dtype, std::size_t count) -> const Entry& {
      if (companion == nullptr) fail(entry, concat("a tensor ", entry.name, suffix), "none of this name");
      if (companion->tensor->dtype != dtype || companion->tensor->size() != count) {
        fail(*companion, concat(count, " elements of ", name(dtype)),
             concat(companion->tensor->size(), " of ", name(companion->tensor->dtype)));
      }
      return *companion;
    };
    const auto finite = [&](const Entry& companion) {
      const float* const values = elements<float>(companion);
      if (!detail::all_finite(values, companion.tensor->size())) fail(companion, "finite numbers", "NaN or infinity");
      return values;
    };

    const bool nested = nested_absmax != nullptr;
    const QuantState state =
        read_quant_state(part(state_entry, quant_state_prefix, Dtype::U8, state_entry->tensor->size()), quant_type, shape, nested);
    const std::size_t count = shape[0] * shape[1], blocks = (count + state.block - 1) / state.block;
    const std::size_t item = bits(entry.tensor->dtype) / 8, bytes = ((count + 1) / 2 + item - 1) / item * item;
    if (entry.tensor->bytes.size() != bytes)
      fail<shape_error>(entry, concat(bytes, " bytes of codes for ", to_string(shape)), concat(entry.tensor->bytes.size()));

    const float* const stored_table = finite(part(map, ".quant_map", Dtype::F32, table.size()));
    for (std::size_t code = 0; code < table.size(); ++code) {
      // Wide enough for FP4 tables that old releases rounded to four decimals.
      if (const float off = stored_table[code] - table[code]; off > 1e-4F || off < -1e-4F) {
        fail(*map, concat(table[code], " for code ", code), concat(stored_table[code]));
      }
    }
    Blocks result{.codes = reinterpret_cast<const std::uint8_t*>(entry.tensor->bytes.data()), .block = state.block};
    if (nested) {
      result.absmax_codes = elements<std::uint8_t>(part(absmax, ".absmax", Dtype::U8, blocks));
      result.nested_absmax =
          finite(part(nested_absmax, ".nested_absmax", Dtype::F32, (blocks + state.nested_block - 1) / state.nested_block));
      result.nested_map = finite(part(nested_map, ".nested_quant_map", Dtype::F32, 256));
      result.nested_block = state.nested_block;
      result.nested_offset = state.nested_offset;
    } else {
      if (nested_map != nullptr) fail(*nested_map, "a tensor nested_absmax beside it", "none");
      result.absmax = finite(part(absmax, ".absmax", Dtype::F32, blocks));
    }
    return result;
  }

  template <class F, class G>
  static void assign(Weights<F>& weights, const Weights<G>& found) {
    if constexpr (std::same_as<F, G>) {
      weights = found;
    } else {
      weights.stored = found;
    }
  }

  std::string folder_;
  std::vector<File> files_;
  std::vector<Entry> entries_;  ///< sorted by name
  std::vector<detail::AlignedBytes> owned_;
  std::size_t owned_bytes_ = 0;
};

}  // namespace mllama
