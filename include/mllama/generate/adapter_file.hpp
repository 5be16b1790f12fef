// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <mllama/core/check.hpp>
#include <mllama/core/thread_pool.hpp>
#include <mllama/io/adapter_config.hpp>
#include <mllama/io/elements.hpp>
#include <mllama/io/float_tensor.hpp>
#include <mllama/io/model_files.hpp>
#include <mllama/io/safetensors.hpp>
#include <mllama/layers/lora.hpp>
#include <mllama/text/pattern.hpp>

namespace mllama {

/// An adapter's folder as PEFT saves it: `adapter_config.json` and `adapter_model.safetensors`, under the keys of either of
/// transformers' layouts. It knows no model: the numbers for a module are asked for by its canonical name, `layers.3.mlp.up_proj`, and
/// what nobody has asked for is left over. Its numbers lie in the mapped file, or widened to float32 in its memory; it must outlive
/// what refers to them, and may be moved.
///
///     AdapterFile adapter("my-adapter");
///     if (const auto change = adapter.linear("layers.3.mlp.up_proj", out, in)) merge(std::array{ScaledLowRank{*change}}, 0, weights);
///     if (const FileTensor* tensor = adapter.replacement("norm.weight", shape)) …
///     adapter.check_all_used();
///
/// Source:  PEFT's get_peft_model_state_dict and set_peft_model_state_dict, release 0.21.2
template <class = void>  // a template, so that bodies are compiled where they are used and not with every include
class BasicAdapterFile {
 public:
  /// Errors:  file_error, also where there are only pickled tensors; those of Safetensors and read_adapter_config; format_error for a
  ///          pattern that cannot be used, or two keys that name the same tensor.
  explicit BasicAdapterFile(const std::string& folder)
      : config_(read_adapter_config(folder + "/adapter_config.json")),
        path_(folder + "/adapter_model.safetensors"),
        tensors_(open(folder)),
        ranks_(compiled(config_.rank_pattern, "rank_pattern")),
        alphas_(compiled(config_.alpha_pattern, "alpha_pattern")) {
    check<format_error>(tensors_.tensors().size() <= most_tensors, [&] {
      return Fault{
          .file = path_, .expected = concat("at most ", most_tensors, " tensors"), .found = concat(tensors_.tensors().size())};
    });
    for (const FileTensor& tensor : tensors_.tensors()) entries_.push_back(entry_of(tensor));
    std::sort(entries_.begin(), entries_.end(), [](const Entry& x, const Entry& y) { return x.key() < y.key(); });
    for (std::size_t i = 1; i < entries_.size(); ++i) {
      const Entry &one = entries_[i - 1], &other = entries_[i];
      if (one.key() != other.key() || same_bytes(*one.tensor, *other.tensor)) continue;
      throw format_error(
          Fault{.file = path_, .field = other.tensor->name, .note = concat("names the same tensor as ", one.tensor->name)});
    }
  }

  [[nodiscard]] const AdapterConfig& config() const noexcept { return config_; }
  /// The file of the tensors.
  [[nodiscard]] const std::string& path() const noexcept { return path_; }

  /// The change of a linear, if the adapter has one.
  /// Shapes:  the linear's weight (out, in).
  /// Errors:  shape_error, also where the rank is not that of the configuration; format_error if a tensor of the change is missing.
  [[nodiscard]] std::optional<LowRank> linear(std::string_view module, std::size_t out, std::size_t in) {
    const Entry *const a = take(module, Role::a), *const b = take(module, Role::b);
    const Entry* const bias = config_.lora_bias ? take(module, Role::b_bias) : nullptr;
    const Entry* const magnitude = config_.magnitudes ? take(module, Role::magnitude) : nullptr;
    const Entry* const any = first_of({a, b, bias, magnitude});
    if (any == nullptr) return std::nullopt;
    require(a, *any, Role::a);
    require(b, *any, Role::b);
    if (config_.lora_bias) require(bias, *any, Role::b_bias);
    if (config_.magnitudes) require(magnitude, *any, Role::magnitude);

    const std::size_t rank = rank_of(*any);
    LowRank change{
        .a = {numbers(*a, {rank, in}), rank, in}, .b = {numbers(*b, {out, rank}), out, rank}, .scale = scale_of(*any, rank)};
    if (bias != nullptr) change.bias = numbers(*bias, {out});
    if (magnitude != nullptr) change.magnitude = numbers(*magnitude, {out});
    return change;
  }

  /// The change of a table of vectors, if the adapter has one: of the table's weight (count, width), as that of a linear.
  /// Errors:  those of `linear`; config_error for one with magnitudes, which are lengths of columns there.
  [[nodiscard]] std::optional<LowRank> embedding(std::string_view module, std::size_t count, std::size_t width) {
    const Entry *const a = take(module, Role::embedding_a), *const b = take(module, Role::embedding_b);
    const Entry* const any = first_of({a, b});
    if (any == nullptr) return std::nullopt;
    require(a, *any, Role::embedding_a);
    require(b, *any, Role::embedding_b);
    check<config_error>(!config_.magnitudes, [&] {
      return Fault{
          .file = config_.file, .field = "use_dora", .expected = concat("false, for the embedding ", module), .found = "true"};
    });
    const std::size_t rank = rank_of(*any);
    return LowRank{.a = {transposed(numbers(*b, {width, rank}), width, rank), rank, width},
                   .b = {transposed(numbers(*a, {rank, count}), rank, count), count, rank},
                   .scale = scale_of(*any, rank)};
  }

  /// The tensor that takes the place of a parameter, by its canonical name (`norm.weight`); null if there is none.
  /// Errors:  shape_error
  [[nodiscard]] const FileTensor* replacement(std::string_view parameter, std::span<const std::size_t> shape) {
    return checked(take(parameter, Role::replacement), shape);
  }
  /// A copy of the base's own parameter, which PEFT saves without need; null if there is none.
  /// Errors:  shape_error
  [[nodiscard]] const FileTensor* copy(std::string_view parameter, std::span<const std::size_t> shape) {
    return checked(take(parameter, Role::copy), shape);
  }

  /// Throws if the adapter has tensors that nobody has asked for: a part of it would silently do nothing.
  /// Errors:  shape_error that lists them.
  void check_all_used() const {
    constexpr std::size_t shown = 3;
    std::string list;
    std::size_t left = 0;
    for (const Entry& entry : entries_) {
      if (entry.used) continue;
      if (left < shown) list += concat(left == 0 ? "" : ", ", entry.tensor->name);
      ++left;
    }
    check<shape_error>(left == 0 && !entries_.empty(), [&] {
      return Fault{.file = path_,
                   .expected = "only tensors for modules of the model that take changes",
                   .found = entries_.empty()
                                ? "no tensor"
                                : concat(left == entries_.size() ? concat("none among ", left) : concat(left, " others"), ": ",
                                         list, left > shown ? ", ..." : "")};
    });
  }

 private:
  static constexpr std::size_t most_tensors = 65'536;

  enum class Role : unsigned char { a, b, b_bias, magnitude, embedding_a, embedding_b, replacement, copy, unknown };
  /// Of the tensors that make up a change; in the order of their roles.
  static constexpr auto suffixes = std::to_array<std::string_view>(
      {".lora_A.weight", ".lora_B.weight", ".lora_B.bias", ".lora_magnitude_vector", ".lora_embedding_A", ".lora_embedding_B"});

  struct Entry {
    std::string name;  ///< canonical, of the module of a change, of a parameter otherwise
    Role role = Role::unknown;
    const FileTensor* tensor = nullptr;
    std::string_view path;  ///< of the module or parameter, as in the file
    bool used = false;

    [[nodiscard]] std::pair<std::string_view, Role> key() const noexcept { return {name, role}; }
  };

  static Safetensors open(const std::string& folder) {
    const std::string path = folder + "/adapter_model.safetensors";
    check<file_error>(detail::exists(path) || !detail::exists(folder + "/adapter_model.bin"), [&] {
      return Fault{.file = folder,
                   .expected = "adapter_model.safetensors",
                   .found = "adapter_model.bin",
                   .note = "pickled tensors are not read; load the adapter with PEFT and save it again"};
    });
    return Safetensors(path);
  }

  /// PEFT's way to look a module up: the pattern matches the end of its path, from a dot or the beginning on.
  std::vector<Pattern> compiled(const std::vector<AdapterConfig::PatternValue>& patterns, std::string_view field) const {
    std::vector<Pattern> all;
    all.reserve(patterns.size());
    for (const auto& [pattern, value] : patterns) {
      all.emplace_back(concat("(.*\\.)?(", pattern, ")$"), config_.file, concat(field, ".", pattern));
    }
    return all;
  }

  /// The value of the first pattern that matches.
  [[nodiscard]] double value_of(const Entry& entry, std::span<const Pattern> patterns,
                                std::span<const AdapterConfig::PatternValue> values, double otherwise) {
    for (std::size_t i = 0; i < patterns.size(); ++i) {
      if (patterns[i].matches(entry.path, work_)) return values[i].value;
    }
    return otherwise;
  }
  [[nodiscard]] std::size_t rank_of(const Entry& entry) {
    return static_cast<std::size_t>(value_of(entry, ranks_, config_.rank_pattern, static_cast<double>(config_.rank)));
  }
  [[nodiscard]] double scale_of(const Entry& entry, std::size_t rank) {
    const auto r = static_cast<double>(rank);
    return value_of(entry, alphas_, config_.alpha_pattern, config_.alpha) / (config_.rank_stabilised ? std::sqrt(r) : r);
  }

  [[nodiscard]] Entry entry_of(const FileTensor& tensor) const {
    std::string_view path = tensor.name;
    constexpr std::string_view prefix = "base_model.model.";
    if (path.starts_with(prefix)) path.remove_prefix(prefix.size());
    for (std::size_t i = 0; i < suffixes.size(); ++i) {
      if (!path.ends_with(suffixes[i])) continue;
      path.remove_suffix(suffixes[i].size());
      return {std::string(canonical_name(path)), static_cast<Role>(i), &tensor, path};
    }

    const std::size_t dot = path.rfind('.');
    std::string_view owner = path.substr(0, dot == path.npos ? 0 : dot), parameter = path.substr(dot == path.npos ? 0 : dot + 1);
    const auto inside = [&](std::string_view wrapper) {
      if (!owner.ends_with(wrapper)) return false;
      owner.remove_suffix(wrapper.size());
      return true;
    };
    const bool is_bias = parameter == "bias" && config_.bias != AdapterConfig::Bias::none;
    Role role = Role::unknown;
    if (inside(".base_layer")) {
      role = is_bias ? Role::replacement : Role::copy;
    } else if (inside(".original_module")) {
      role = Role::copy;
    } else if (static_cast<void>(inside(".modules_to_save")); is_bias || is_saved(owner)) {
      role = Role::replacement;
    }
    std::string name = concat(canonical_name(owner), owner.empty() ? "" : ".", parameter);
    // PEFT can be told to save the tables of tokens although they were not trained.
    if (role == Role::unknown && (name == "embed_tokens.weight" || name == "lm_head.weight")) role = Role::copy;
    return {std::move(name), role, &tensor, path};
  }

  /// Whether the module, or one that it is part of, is to be replaced. PEFT compares ends of paths, be they whole names or not.
  [[nodiscard]] bool is_saved(std::string_view owner) const {
    while (!owner.empty()) {
      for (const std::string& end : config_.modules_to_save) {
        if (owner.ends_with(end)) return true;
      }
      const std::size_t dot = owner.rfind('.');
      owner = owner.substr(0, dot == owner.npos ? 0 : dot);
    }
    return false;
  }

  static bool same_bytes(const FileTensor& x, const FileTensor& y) {
    return x.dtype == y.dtype && x.shape == y.shape && std::ranges::equal(x.bytes, y.bytes);
  }

  /// Marks all that have this name and role as used; null if there is none.
  const Entry* take(std::string_view name, Role role) {
    const std::pair key{name, role};
    const auto first =
        std::lower_bound(entries_.begin(), entries_.end(), key, [](const Entry& entry, const auto& k) { return entry.key() < k; });
    auto end = first;
    for (; end != entries_.end() && end->key() == key; ++end) end->used = true;
    return first == end ? nullptr : &*first;
  }

  static const Entry* first_of(std::initializer_list<const Entry*> entries) {
    for (const Entry* const entry : entries) {
      if (entry != nullptr) return entry;
    }
    return nullptr;
  }

  /// `other` is a tensor of the same change.
  void require(const Entry* entry, const Entry& other, Role role) const {
    check<format_error>(entry != nullptr, [&] {
      return Fault{.file = path_,
                   .field = other.tensor->name,
                   .expected = concat("a tensor ", other.path, suffixes[static_cast<std::size_t>(role)], " beside it"),
                   .found = "none"};
    });
  }

  [[noreturn]] void fail(const FileTensor& tensor, std::string expected) const {
    throw shape_error(Fault{.file = path_,
                            .field = tensor.name,
                            .expected = std::move(expected),
                            .found = concat(name(tensor.dtype), " ", to_string(tensor.shape))});
  }
  const FileTensor* checked(const Entry* entry, std::span<const std::size_t> shape) const {
    if (entry == nullptr) return nullptr;
    if (!std::ranges::equal(entry->tensor->shape, shape)) fail(*entry->tensor, to_string(shape));
    return entry->tensor;
  }

  /// The elements as float32.
  const float* numbers(const Entry& entry, std::initializer_list<std::size_t> shape) {
    const FileTensor& tensor = *checked(&entry, shape);
    switch (tensor.dtype) {
      case Dtype::F32:
        return elements_.of<float>(tensor);
      case Dtype::BF16:
        return elements_.widened<BF16>(tensor.bytes);
      case Dtype::F16:
        return elements_.widened<F16>(tensor.bytes);
      default:
        fail(tensor, "F32, BF16 or F16");
    }
  }

  const float* transposed(const float* matrix, std::size_t rows, std::size_t columns) {
    auto* const turned = reinterpret_cast<float*>(elements_.take(rows * columns * sizeof(float)));
    for (std::size_t r = 0; r < rows; ++r) {
      for (std::size_t c = 0; c < columns; ++c) turned[c * rows + r] = matrix[r * columns + c];
    }
    return turned;
  }

  AdapterConfig config_;
  std::string path_;
  Safetensors tensors_;
  std::vector<Pattern> ranks_, alphas_;
  PatternWork work_;
  std::vector<Entry> entries_;
  Elements elements_;
};
using AdapterFile = BasicAdapterFile<>;
#if defined(MLLAMA_ELSEWHERE)
extern template class BasicAdapterFile<>;
#endif

/// Whether a tensor of a file holds the numbers of a parameter: the same ones, or where the types differ, ones that round alike to
/// bfloat16. True of a quantised parameter, which has no such copy.
template <WeightFormat F>
[[nodiscard]] bool is_copy(const FileTensor& tensor, const Weights<F>& weights, ThreadPool& threads) {
  return with_format(weights, [&]<class G>(const Weights<G>& base) {
    if constexpr (!DenseFormat<G>) {
      return true;
    } else {
      Elements scratch;
      Weights<StoredFloat> found;
      if (!bind_float(found, tensor, tensor.shape, scratch)) return false;
      const float tolerance = tensor.dtype == detail::dtype_of<G>() ? 0 : 0x1p-8F;
      std::atomic<bool> same = true;
      threads.parallel_for(tensor.size(), 1024, [&](std::size_t begin, std::size_t end, unsigned) {
        std::array<float, 1024> expected, values;
        for (std::size_t i = begin; i < end && same.load(std::memory_order_relaxed); i += values.size()) {
          const std::size_t count = std::min(values.size(), end - i);
          base.decode(i, {expected.data(), count});
          found.decode(i, {values.data(), count});
          for (std::size_t j = 0; j < count; ++j) {
            const bool near = std::abs(values[j] - expected[j]) <= tolerance * std::abs(expected[j]);
            if (!near && std::bit_cast<std::uint32_t>(values[j]) != std::bit_cast<std::uint32_t>(expected[j]))
              same.store(false, std::memory_order_relaxed);
          }
        }
      });
      return same.load();
    }
  });
}

}  // namespace mllama
