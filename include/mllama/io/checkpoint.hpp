// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <iterator>
#include <mllama/core/check.hpp>
#include <mllama/core/format.hpp>
#include <mllama/io/bitsandbytes.hpp>
#include <mllama/io/elements.hpp>
#include <mllama/io/json_file.hpp>
#include <mllama/io/safetensors.hpp>
#include <span>
#include <string>
#include <string_view>
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

}  // namespace detail

/// A model folder, opened. Weights that it has bound point into it: it must outlive them, and may be moved.
template <class = void>  // a template, so that bodies are compiled where they are used and not with every include
class BasicCheckpoint {
 public:
  /// Opens `model.safetensors`, or else all files that `model.safetensors.index.json` names.
  /// Errors:  file_error if neither is there or a file cannot be read; format_error if a file breaks its format, if index and files
  ///          contradict each other, or if two tensors have the same canonical name.
  [[nodiscard]] static BasicCheckpoint open(const std::string& folder) {
    BasicCheckpoint checkpoint(folder);
    const std::string single = folder + "/model.safetensors", index = folder + "/model.safetensors.index.json";
    if (detail::exists(single)) {  // as transformers does it: an index beside it is a rest of something else
      checkpoint.add(single);
    } else if (detail::exists(index)) {
      checkpoint.add_shards(index);
    } else {
      throw file_error(Fault{.file = folder,
                             .expected = "model.safetensors or model.safetensors.index.json",
                             .found = detail::exists(folder) ? "neither" : "no such folder"});
    }
    checkpoint.sort();
    return checkpoint;
  }

  /// The folder, as given.
  [[nodiscard]] const std::string& folder() const noexcept { return folder_; }

  /// The tensor of this canonical name, or null.
  [[nodiscard]] const FileTensor* find(std::string_view name) const noexcept {
    const Entry* const entry = find_entry(name);
    return entry == nullptr ? nullptr : entry->tensor;
  }

  /// Points `weights` at the tensor `name`, which must have the shape `shape` ([out, in] for a matrix; rows are its first length,
  /// columns all others).
  ///   * 4-bit blocks or 8-bit rows, if the format has them: in place, nested and plain scales.
  ///   * A float type of the format: in place; copied if it is not aligned.
  ///   * Another float type, if the format has F32: F16 and BF16 are widened into memory that the checkpoint owns.
  /// Errors:  shape_error that names file, tensor, expected and found; format_error if a quantised tensor is damaged.
  /// Source:  bitsandbytes `QuantState.from_dict`; what it takes on trust is checked here.
  template <WeightFormat F>
  void bind(Weights<F>& weights, std::string_view name, std::span<const std::size_t> shape) {
    Entry& entry = require(name, shape);
    const QuantizedTensor quantized = quantized_tensor(entry);
    if (quantized.type().empty()) check_shape(entry, shape);
    if (bind_as_stored(weights, entry, quantized, shape) || bind_widened(weights, entry, quantized, shape)) return;
    std::string expected;
    detail::FormatList<F>::any([&]<class G>() {
      expected += concat(expected.empty() ? "" : ", ", G::name);
      return false;
    });
    fail_type(entry, std::move(expected), quantized.type());
  }

  /// Canonical names that nothing has been bound to. A model that has bound all its members and leaves some over is not the file's
  /// model, except for what releases of transformers save without need (`rotary_emb.inv_freq`).
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
  [[nodiscard]] std::size_t owned_bytes() const noexcept { return elements_.bytes(); }

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

  explicit BasicCheckpoint(std::string folder) : folder_(std::move(folder)) {}

  const Safetensors& add(std::string path) {
    Safetensors content(path);
    for (const FileTensor& tensor : content.tensors()) {
      entries_.push_back({.name = canonical_name(tensor.name), .tensor = &tensor, .file = files_.size()});
    }
    files_.push_back({std::move(path), std::move(content)});
    return files_.back().content;
  }

  void add_shards(const std::string& index_path) {
    const JsonFile index(index_path, JsonLimits{});
    const JsonField map = index.root()["weight_map"];
    struct Place {
      std::string shard, key;
      JsonView value;
    };
    std::vector<Place> places;
    map.view(JsonView::Kind::object, "an object of tensor names and file names").for_each_member([&](JsonView key, JsonView value) {
      const JsonField mapped = map.member(key.string(), value);
      auto shard = mapped.as<std::string>();
      const bool is_plain =
          !shard.empty() && shard != "." && shard != ".." && shard.find_first_of(std::string_view("/\\\0", 3)) == std::string::npos;
      if (!is_plain) mapped.fail("the name of a file in the same folder");
      places.push_back({std::move(shard), key.string(), value});
    });
    // In the order of the files and, within one, of its tensors.
    std::sort(places.begin(), places.end(),
              [](const Place& a, const Place& b) { return a.shard != b.shard ? a.shard < b.shard : a.key < b.key; });
    for (auto place = places.begin(); place != places.end();) {
      const std::string& shard = place->shard;
      const auto in_shard = [&] { return place != places.end() && place->shard == shard; };
      const auto fail_absent = [&] { map.member(place->key, place->value).fail("a file that has this tensor"); };
      for (const FileTensor& tensor : add(folder_ + '/' + shard).tensors()) {
        if (in_shard() && place->key < tensor.name) fail_absent();
        if (!in_shard() || place->key != tensor.name)
          map[tensor.name].fail(concat('"', shard, '"'), "the file has a tensor of this name");
        ++place;
      }
      if (in_shard()) fail_absent();
    }
  }

  void sort() {
    std::sort(entries_.begin(), entries_.end(), [](const Entry& a, const Entry& b) { return a.name < b.name; });
    const auto twice =
        std::adjacent_find(entries_.begin(), entries_.end(), [](const Entry& a, const Entry& b) { return a.name == b.name; });
    if (twice == entries_.end()) return;
    const Entry& other = *std::next(twice);
    throw format_error(Fault{.file = path(other),
                             .field = other.tensor->name,
                             .note = concat("names the same tensor as ", twice->tensor->name, " of ", path(*twice))});
  }

  [[nodiscard]] const std::string& path(const Entry& entry) const noexcept { return files_[entry.file].path; }

  /// Where the names from `name` on begin.
  [[nodiscard]] std::vector<Entry>::const_iterator first_from(std::string_view name) const noexcept {
    return std::lower_bound(entries_.begin(), entries_.end(), name,
                            [](const Entry& entry, std::string_view key) { return entry.name < key; });
  }
  [[nodiscard]] const Entry* find_entry(std::string_view name) const noexcept {
    const auto place = first_from(name);
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
                              .found = "none of this name"});
    }
    entry->used = true;
    return *entry;
  }

  [[nodiscard]] TensorOfFile located(const Entry& entry) const noexcept { return {entry.tensor, path(entry)}; }

  /// The tensor with those whose names are its own and more.
  [[nodiscard]] QuantizedTensor quantized_tensor(const Entry& entry) {
    QuantizedTensor quantized(located(entry));
    const std::string begin = concat(entry.name, ".");
    auto part = entries_.begin() + (first_from(begin) - entries_.begin());
    const auto first = part;
    for (; part != entries_.end() && part->name.starts_with(begin); ++part) {
      quantized.add(located(*part), part->name.substr(entry.name.size()));
      part->used = true;
    }
    if (part != first && quantized.type().empty()) located(*first).fail("a quantisation state beside it", "none");
    return quantized;
  }

  /// The tensor with those beside it that make it a matrix of LLM.int8().
  [[nodiscard]] Int8Tensor int8_tensor(const Entry& entry) {
    Int8Tensor matrix{.weight = located(entry), .scales = {}, .layout = {}};
    if (!entry.name.ends_with(".weight")) return matrix;
    const std::string_view module = entry.name.substr(0, entry.name.size() - std::string_view("weight").size());
    const auto beside = [&](std::string_view name) {
      Entry* const found = find_entry(concat(module, name));
      if (found == nullptr) return TensorOfFile{};
      found->used = true;
      return located(*found);
    };
    matrix.scales = beside("SCB");
    matrix.layout = beside("weight_format");
    return matrix;
  }

  void check_shape(const Entry& entry, std::span<const std::size_t> shape) const {
    if (shape.empty() || !std::equal(shape.begin(), shape.end(), entry.tensor->shape.begin(), entry.tensor->shape.end())) {
      located(entry).template fail<shape_error>(to_string(shape),
                                                concat(name(entry.tensor->dtype), " ", to_string(entry.tensor->shape)));
    }
  }
  [[nodiscard]] static std::size_t columns(std::span<const std::size_t> shape) {
    std::size_t product = 1;
    for (const std::size_t length : shape.subspan(1)) product *= length;
    return product;
  }

  [[noreturn]] void fail_type(const Entry& entry, std::string expected, std::string_view quant_type) const {
    std::string found(name(entry.tensor->dtype));
    if (!quant_type.empty()) found = concat("bitsandbytes ", quant_type);
    if (entry.tensor->dtype == Dtype::I8) {
      const bool has_scales = find(concat(entry.name.substr(0, entry.name.rfind('.')), ".SCB")) != nullptr;
      found += has_scales ? " of LLM.int8()" : " without scales SCB";
    }
    located(entry).template fail<shape_error>(std::move(expected), std::move(found),
                                              "the model type does not take this storage format here");
  }

  /// False if the tensor is in none of the formats.
  template <class F>
  bool bind_as_stored(Weights<F>& weights, const Entry& entry, const QuantizedTensor& quantized,
                      std::span<const std::size_t> shape) {
    return detail::FormatList<F>::any([&]<class G>() {
      if constexpr (BlockFormat<G>) {
        if (quantized.type() != detail::quant_type<G>()) return false;
        assign(weights, quantized.read<G>(shape, elements_));
      } else if constexpr (RowFormat<G>) {
        if (!quantized.type().empty() || shape.size() != 2) return false;
        const Int8Tensor matrix = int8_tensor(entry);
        if (!matrix.quantized()) return false;
        assign(weights, matrix.read<G>(shape, elements_));
      } else {
        if (!quantized.type().empty() || entry.tensor->dtype != detail::dtype_of<G>()) return false;
        assign(weights, Weights<G>{elements_.of<typename G::stored>(*entry.tensor), shape[0], columns(shape)});
      }
      return true;
    });
  }

  /// False if the tensor has no narrower float type, or if F32 is none of the formats.
  template <class F>
  bool bind_widened(Weights<F>& weights, const Entry& entry, const QuantizedTensor& quantized, std::span<const std::size_t> shape) {
    return detail::FormatList<F>::any([&]<class G>() {
      if constexpr (std::same_as<G, F32>) {
        const FileTensor& tensor = *entry.tensor;
        if (!quantized.type().empty() || (tensor.dtype != Dtype::BF16 && tensor.dtype != Dtype::F16)) return false;
        const float* const wide = tensor.dtype == Dtype::BF16 ? elements_.widened<BF16>(tensor) : elements_.widened<F16>(tensor);
        assign(weights, Weights<F32>{wide, shape[0], columns(shape)});
        return true;
      }
      return false;
    });
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
  Elements elements_;
};
using Checkpoint = BasicCheckpoint<>;

}  // namespace mllama
