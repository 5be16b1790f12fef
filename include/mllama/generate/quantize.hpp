// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <mllama/core/check.hpp>
#include <mllama/core/encode.hpp>
#include <mllama/core/thread_pool.hpp>
#include <mllama/generate/merged_folder.hpp>
#include <mllama/io/bitsandbytes_writer.hpp>
#include <mllama/io/checkpoint.hpp>
#include <mllama/io/checkpoint_writer.hpp>
#include <mllama/io/config_text.hpp>
#include <mllama/io/json_members.hpp>
#include <mllama/io/settings_files.hpp>
#include <mllama/kernels/simd/decode.hpp>

/// From a model folder to one in another format: floats to 4 or 8 bits and back, tensor by tensor.

namespace mllama {

/// What a folder's linear layers become. Formats have the names `nf4`, `fp4`, `int8`, `bf16`, `f16` and `f32`.
struct QuantizeOptions {
  /// Linear layers that a pattern speaks of, and their format.
  struct Rule {
    std::string pattern, format;
  };
  std::string format = "nf4";                ///< of linear layers; a float format is that of all float tensors
  bool nested = false;                       ///< scales of 4-bit blocks are quantised, too
  std::size_t block = 64;                    ///< elements that share a scale, a power of two from 32 to 4096
  std::vector<std::string> skip = {};        ///< linear layers that stay as they are; none given: `lm_head`
  std::vector<Rule> rules = {};              ///< the first one that fits counts, before `skip`
  std::vector<MergedAdapter> adapters = {};  ///< merged in their order, before anything is quantised
  CheckpointWriterOptions writer = {};
  unsigned threads = 0;  ///< 0: as many as the machine runs at once
};

/// What a format made of a tensor.
struct QuantizationError {
  std::string tensor;  ///< under the name that it has in the file
  std::string_view format;
  std::size_t elements = 0;
  double relative = 0;          ///< root mean square of the differences, divided by that of the elements
  float largest = 0;            ///< difference
  std::size_t worst_block = 0;  ///< the one with the largest relative difference: of 4-bit elements, else a row
  double worst_relative = 0;
};

/// Whether an entry of a skip list speaks of a module, under its name in any layout.
/// Source:  transformers 4: the entry is the last component of a module's path, or all of it, or is followed by a dot somewhere in
///          it; or, as in transformers 5, the path ends in it
[[nodiscard]] inline bool matches_module(std::string_view pattern, std::string_view module) {
  const std::string_view path = canonical_name(module);
  const bool is_text = !path.starts_with("vision_model.") && path != "multi_modal_projector" && path != "lm_head";
  const auto matches = [&](const std::string& name) {
    return name == pattern || name.ends_with(concat('.', pattern)) || name.find(concat(pattern, '.')) != std::string::npos;
  };
  return is_text ? matches(concat("language_model.model.", path)) || matches(concat("model.language_model.", path)) ||
                       matches(concat("model.", path))
                 : matches(concat("model.", path)) || matches(concat("language_model.", path)) || matches(std::string(path));
}

namespace detail {

/// Name of a format in options: `nf4`, `int8`, `bf16`.
template <class F>
inline constexpr std::string_view option_name = [] {
  if constexpr (std::same_as<F, NF4>) return "nf4";
  if constexpr (std::same_as<F, FP4>) return "fp4";
  if constexpr (std::same_as<F, Int8>) return "int8";
  if constexpr (std::same_as<F, BF16>) return "bf16";
  if constexpr (std::same_as<F, F16>) return "f16";
  if constexpr (std::same_as<F, F32>) return "f32";
}();

/// Calls `use.operator()<F>()` with the format of a name.
/// Errors:  input_error if there is none of that name.
template <class Use>
void with_format_named(std::string_view name, Use&& use) {
  const bool found = FormatList<AnyOf<NF4, FP4, Int8, BF16, F16, F32>>::any([&]<class F>() {
    if (name != option_name<F>) return false;
    use.template operator()<F>();
    return true;
  });
  check(found,
        [&] { return Fault{.field = "format", .expected = "nf4, fp4, int8, bf16, f16 or f32", .found = std::string(name)}; });
}

/// Sums of a run of elements and what has become of them.
struct ErrorSums {
  double difference = 0, size = 0, worst = -1;  // sums of squares; the largest ratio of two blocks' sums
  float largest = 0;
  std::size_t worst_block = 0;

  void add_block(std::size_t block, std::span<const float> before, const float* after) noexcept {
    double d = 0, s = 0;
    for (std::size_t i = 0; i < before.size(); ++i) {
      const float difference_here = before[i] - after[i];
      largest = std::max(largest, std::abs(difference_here));
      d += double{difference_here} * double{difference_here};
      s += double{before[i]} * double{before[i]};
    }
    const double ratio = s > 0 ? d / s : 0;
    if (ratio > worst) worst = ratio, worst_block = block;
    difference += d;
    size += s;
  }
  void add(const ErrorSums& later) noexcept {
    difference += later.difference;
    size += later.size;
    largest = std::max(largest, later.largest);
    if (later.worst > worst) worst = later.worst, worst_block = later.worst_block;
  }
};

}  // namespace detail

/// Writes a model folder anew in another format, one tensor after the other; at most a tensor's result is in memory.
///   * Adapters are merged in float32.
///   * Linear layers (matrices `*.weight` but for tables of embeddings) are decoded to float32 and stored in their format; those
///     that are skipped, and everything else, keep their bytes, or their float type if adapters change them. A float format is that
///     of all float tensors.
///   * Names are those of the source; of Meta's layout, those of transformers' checkpoints.
///   * config.json gets a new `quantization_config`, or loses it; the other files of settings and vocabulary are copied.
///   * The bytes are those that transformers with bitsandbytes saves on a CPU, but for nested scales (see encode_scales).
/// Errors:  those of Checkpoint::open, read_model_sizes and CheckpointWriter; input_error for options that cannot be, and for a
///          tensor that holds NaN or infinity. The new folder appears complete or not at all.
template <class = void>  // a template, so that bodies are compiled where they are used and not with every include
class BasicQuantizer {
 public:
  /// Reads headers and plans; nothing is computed yet.
  BasicQuantizer(const std::string& from, const std::string& to, QuantizeOptions options)
      : options_(std::move(options)), sizes_(read_model_sizes(from)), source_(from, options_.adapters), threads_(options_.threads) {
    detail::with_format_named(options_.format, [&]<class F>() { to_floats_ = DenseFormat<F>; });
    check(options_.block >= 32 && options_.block <= 4096 && std::has_single_bit(options_.block),
          [&] { return Fault{.field = "block", .expected = "a power of two from 32 to 4096", .found = concat(options_.block)}; });
    if (options_.skip.empty()) options_.skip = {"lm_head"}, default_skip_ = true;
    std::vector<PlannedTensor> declared;
    for (const ModelTensor& tensor : source_.files().tensors()) {
      if (!source_.is_part(tensor)) plan(tensor, declared);
    }
    source_.adapters().check_all_used();
    std::ranges::sort(work_, {}, &Work::name);
    writer_.emplace(to, std::move(declared), options_.writer);
  }

  /// Number of tensors that `run` speaks of.
  [[nodiscard]] std::size_t size() const noexcept { return work_.size(); }
  [[nodiscard]] std::size_t tensor_bytes() const noexcept { return writer_->tensor_bytes(); }
  /// What there is to say about the adapters, a sentence each.
  [[nodiscard]] std::vector<std::string> notices() const { return source_.adapters().notices(); }

  /// Does the work, and calls `done()` after each tensor.
  /// Returns:  the errors of all tensors that have another format now, in the order of their names
  template <class Done>
  std::vector<QuantizationError> run(Done&& done) {
    std::vector<QuantizationError> errors;
    for (Work& work : work_) {
      if (work.format.empty()) {
        copy(work);
      } else {
        detail::with_format_named(work.format, [&]<class F>() { errors.push_back(store<F>(work)); });
      }
      done();
    }
    add_settings();
    writer_->commit();
    return errors;
  }

 private:
  struct Work {
    const ModelTensor* tensor;
    std::string name;         ///< to be
    std::string_view format;  ///< to be; empty: all bytes as they are
    Shape shape;
    TensorChanges changes;
    FourBitTensors four_bit = {};
    Int8Tensors int8 = {};
    std::size_t first = 0;  ///< number of the declared tensor, or of the first one, if the bytes stay as they are
  };

  /// The name of a tensor in the new folder: the source's, or the one of published checkpoints.
  [[nodiscard]] static std::string new_name(const ModelTensor& tensor) {
    const std::string& stored = tensor.stored.tensor->name;
    if (canonical_name(stored) == tensor.name) return stored;
    const bool is_vision = tensor.name.starts_with("vision_model.") || tensor.name.starts_with("multi_modal_projector.");
    return is_vision ? tensor.name : concat("language_model.", tensor.name.starts_with("lm_head.") ? "" : "model.", tensor.name);
  }

  /// The format that a tensor is to get; empty if its bytes stay as they are.
  [[nodiscard]] std::string_view format_of(const ModelTensor& tensor, const Shape& shape) const {
    const bool is_float = tensor.dtype == Dtype::F32 || tensor.dtype == Dtype::BF16 || tensor.dtype == Dtype::F16;
    if (!MergedFolder::is_linear(tensor.name, shape))
      return is_float && to_floats_ ? std::string_view(options_.format) : std::string_view();
    const std::string_view module = std::string_view(tensor.name).substr(0, tensor.name.rfind('.'));
    const auto fits = [&](std::string_view pattern) { return matches_module(pattern, module); };
    for (const auto& [pattern, format] : options_.rules) {
      if (fits(pattern)) return format;
    }
    return !to_floats_ && std::ranges::any_of(options_.skip, fits) ? std::string_view() : std::string_view(options_.format);
  }

  void plan(const ModelTensor& tensor, std::vector<PlannedTensor>& declared) {
    Work work{.tensor = &tensor, .name = new_name(tensor), .format = {}, .shape = source_.files().own_shape(tensor), .changes = {}};
    if (tensor.name.ends_with(".weight") && work.shape.empty()) {
      tensor.stored.fail("a shape in its quantisation state", "none");
    }
    work.format = format_of(tensor, work.shape);
    work.changes = source_.changes_of(tensor, work.shape, threads_);
    if (work.format.empty() && !work.changes.empty()) {  // of a quantised matrix, which would lose small changes, too
      const Dtype dtype = float_type(tensor);
      work.format = dtype == Dtype::F32   ? detail::option_name<F32>
                    : dtype == Dtype::F16 ? detail::option_name<F16>
                                          : detail::option_name<BF16>;
    }
    if (work.format.empty()) {
      work.first = declared.size();
      for (const ModelTensor* part : source_.parts_of(tensor)) {
        declared.push_back(
            {new_name(*part), part->dtype, part == &tensor && tensor.in_place() ? tensor.stored.tensor->shape : part->shape});
      }
    } else {
      detail::with_format_named(work.format, [&]<class F>() {
        if constexpr (BlockFormat<F>) {
          work.four_bit = {.name = work.name,
                           .matrix = {.type = detail::option_name<F>,
                                      .rows = work.shape[0],
                                      .columns = work.shape[1],
                                      .block = options_.block,
                                      .dtype = torch_name(float_type(tensor))},
                           .nested = options_.nested};
          work.four_bit.declare(declared);
        } else if constexpr (RowFormat<F>) {
          work.int8 = {.name = work.name, .shape = work.shape};
          work.int8.declare(declared);
        } else {
          work.first = declared.size();
          declared.push_back({work.name, detail::dtype_of<F>(), work.shape});
        }
      });
    }
    work_.push_back(std::move(work));
  }

  /// What a tensor's numbers were before they were quantised: its own type, or that of the embedding.
  [[nodiscard]] Dtype float_type(const ModelTensor& tensor) const {
    const bool is_quantized = source_.parts_of(tensor).size() > 1;
    if (!is_quantized && (tensor.dtype == Dtype::F32 || tensor.dtype == Dtype::BF16 || tensor.dtype == Dtype::F16))
      return tensor.dtype;
    const ModelTensor* const embedding = source_.files().find("embed_tokens.weight");
    return embedding != nullptr ? embedding->dtype : Dtype::BF16;
  }

  void copy(const Work& work) {
    std::size_t number = work.first;
    for (const ModelTensor* const part : source_.parts_of(*work.tensor)) {
      const TensorBytes bytes = Checkpoint::read(*part);
      writer_->write(number++, 0, bytes.bytes());
    }
  }

  /// A tensor in another format.
  template <class F>
  QuantizationError store(Work& work) {
    detail::ErrorSums sums;
    std::size_t columns = 1;
    for (std::size_t axis = 1; axis < work.shape.size(); ++axis) columns *= work.shape[axis];
    const std::size_t elements = work.shape.empty() ? 1 : work.shape[0] * columns;
    source_.with_numbers(*work.tensor, work.shape, work.changes, [&](const auto& decode) {
      if constexpr (BlockFormat<F>) {
        sums = store_blocks<F>(work, decode);
      } else if constexpr (RowFormat<F>) {
        sums = store_rows<F>(work, decode);
      } else {
        sums = store_floats<F>(work, elements, decode);
      }
    });
    return {.tensor = work.name,
            .format = detail::option_name<F>,
            .elements = elements,
            .relative = sums.size > 0 ? std::sqrt(sums.difference / sums.size) : 0,
            .largest = sums.largest,
            .worst_block = sums.worst_block,
            .worst_relative = std::sqrt(std::max(sums.worst, 0.0))};
  }

  /// Calls `body(begin, end)` for pieces of [0, count) on all threads, each but the last of `piece`, and adds what they return in
  /// the order of the pieces.
  template <class Body>
  detail::ErrorSums for_pieces(std::size_t count, std::size_t piece, Body&& body) {
    std::vector<detail::ErrorSums> sums((count + piece - 1) / piece);
    threads_.parallel_for(sums.size(), 1, [&](std::size_t begin, std::size_t end, unsigned) {
      for (std::size_t i = begin; i < end; ++i) sums[i] = body(i * piece, std::min(count, (i + 1) * piece));
    });
    detail::ErrorSums all;
    for (const detail::ErrorSums& sum : sums) all.add(sum);
    return all;
  }
  static constexpr std::size_t piece_elements = std::size_t{1} << 18U;  ///< a multiple of every block

  template <BlockFormat F, class Decode>
  detail::ErrorSums store_blocks(Work& work, const Decode& decode) {
    FourBitTensors& to = work.four_bit;
    const std::size_t count = to.elements(), block = to.matrix.block;
    std::vector<std::uint8_t> codes((count + 1) / 2), absmax_codes(to.nested ? to.blocks() : 0);
    std::vector<float> absmax(to.blocks()), groups(to.nested ? to.groups() : 0);
    for_pieces(count, piece_elements, [&](std::size_t begin, std::size_t end) {
      std::vector<float> values(end - begin);
      decode(begin, values);
      if (!encode_blocks<F>(values, block, codes.data() + begin / 2, absmax.data() + begin / block))
        fail_not_finite(work, begin, values);
      return detail::ErrorSums{};
    });
    Weights<F> after{.codes = codes.data(), .rows = work.shape[0], .columns = work.shape[1], .block = block};
    std::array<float, 256> map{};
    if (to.nested) {
      map = dynamic_map();
      to.matrix.nested_offset = after.nested_offset = encode_scales(absmax, absmax_codes.data(), groups.data());
      after.absmax_codes = absmax_codes.data();
      after.nested_absmax = groups.data();
      after.nested_map = map.data();
      write(to.absmax(), absmax_codes);
      write(to.nested_absmax(), groups);
      write(to.nested_map(), map);
    } else {
      after.absmax = absmax.data();
      write(to.absmax(), absmax);
    }
    write(to.codes(), codes);
    write(to.quant_map(), F::table);
    const std::string state = to.matrix.text();
    if (to.nested) writer_->set_length(to.state(), state.size());
    writer_->write(to.state(), 0, state);
    return for_pieces(count, piece_elements, [&](std::size_t begin, std::size_t end) {
      std::vector<float> values(end - begin), decoded(end - begin);
      decode(begin, values);
      kernels::detail::decode_run(after, begin, decoded.size(), decoded.data());
      detail::ErrorSums sums;
      for (std::size_t i = 0; i < values.size(); i += block) {
        const std::size_t some = std::min(block, values.size() - i);
        sums.add_block((begin + i) / block, std::span(values).subspan(i, some), decoded.data() + i);
      }
      return sums;
    });
  }

  template <RowFormat F, class Decode>
  detail::ErrorSums store_rows(const Work& work, const Decode& decode) {
    const std::size_t rows = work.shape[0], columns = work.shape[1];
    const std::size_t piece = std::max<std::size_t>(1, piece_elements / std::max<std::size_t>(columns, 1));
    std::vector<float> scales(rows);
    const detail::ErrorSums sums = for_pieces(rows, piece, [&](std::size_t begin, std::size_t end) {
      std::vector<float> values((end - begin) * columns), decoded(columns);
      std::vector<typename F::code> codes(values.size());
      decode(begin * columns, values);
      detail::ErrorSums here;
      for (std::size_t r = begin; r < end; ++r) {
        const auto row = std::span(values).subspan((r - begin) * columns, columns);
        typename F::code* const to = codes.data() + (r - begin) * columns;
        scales[r] = encode_row(row, to);
        if (!std::isfinite(scales[r])) fail_not_finite(work, r * columns, row);
        Weights<F>{to, 1, columns, &scales[r]}.decode(0, decoded);
        here.add_block(r, row, decoded.data());
      }
      writer_->write(work.int8.codes(), begin * columns, std::as_bytes(std::span(codes)));
      return here;
    });
    write(work.int8.scales(), scales);
    write(work.int8.layout(), std::array<std::uint8_t, 1>{});
    return sums;
  }

  template <DenseFormat F, class Decode>
  detail::ErrorSums store_floats(const Work& work, std::size_t count, const Decode& decode) {
    return for_pieces(count, piece_elements, [&](std::size_t begin, std::size_t end) {
      std::vector<float> values(end - begin), decoded(end - begin);
      std::vector<typename F::stored> stored(end - begin);
      decode(begin, values);
      std::ranges::transform(values, stored.begin(), F::encode);
      std::ranges::transform(stored, decoded.begin(), F::decode);
      writer_->write(work.first, begin * sizeof(typename F::stored), std::as_bytes(std::span(stored)));
      detail::ErrorSums sums;
      sums.add_block(begin / piece_elements, values, decoded.data());
      return sums;
    });
  }

  template <class Values>
  void write(std::size_t tensor, const Values& values) {
    writer_->write(tensor, 0, std::as_bytes(std::span(values)));
  }

  [[noreturn]] static void fail_not_finite(const Work& work, std::size_t first, std::span<const float> values) {
    // Beyond binary16 counts as infinite for rows of 8 bits.
    const auto bad = std::ranges::find_if(values, [&](float value) {
      return !std::isfinite(work.format == detail::option_name<Int8> ? F16::decode(F16::encode(value)) : value);
    });
    work.tensor->stored.template fail<input_error>(
        "numbers that the format can hold",
        concat(double{*bad}, " as element ", first + static_cast<std::size_t>(bad - values.begin())));
  }

  /// config.json, and copies of the other small files.
  void add_settings() {
    const std::string file = detail::folder_file(source_.files().folder(), "config.json");
    const JsonFile config(file);
    std::vector<JsonMember> changes;
    if (config.root()["text_config"]["quantization_config"].present()) {  // some releases put it there
      const std::array inner{JsonMember{"quantization_config", std::nullopt}};
      changes.push_back({"text_config", with_members(config.root()["text_config"].view().text(), file, inner)});
    }
    changes.push_back({"quantization_config", std::nullopt});
    if (to_floats_) {
      detail::with_format_named(options_.format, [&]<class F>() {
        if constexpr (DenseFormat<F>) {
          const bool is_new = config.root()["dtype"].present();
          changes.push_back({is_new ? "dtype" : "torch_dtype", python_string(torch_name(detail::dtype_of<F>()))});
        }
      });
    } else {
      changes.back().value = quantization_config_text(settings(), torch_name(float_type(*work_.front().tensor)));
    }
    writer_->add_file("config.json", with_members(config.text(), file, changes));
    for (const std::string& name : settings_files(source_.files().folder())) {
      if (name != "config.json") writer_->copy_file(concat(source_.files().folder(), '/', name), name);
    }
  }

  [[nodiscard]] QuantizationSettings settings() const {
    QuantizationSettings settings{
        .method = "bitsandbytes", .four_bit = options_.format != "int8", .eight_bit = options_.format == "int8"};
    if (settings.four_bit) settings.type = options_.format;
    settings.nested = settings.four_bit && options_.nested;
    if (!default_skip_) settings.skip_modules = options_.skip;
    for (const auto& [pattern, format] : options_.rules) {
      if (format == "bf16" || format == "f16" || format == "f32") settings.skip_modules.push_back(pattern);
    }
    if (default_skip_ && !settings.skip_modules.empty()) settings.skip_modules.insert(settings.skip_modules.begin(), "lm_head");
    return settings;
  }

  QuantizeOptions options_;
  bool default_skip_ = false;
  ModelSizes sizes_;
  MergedFolder source_;
  bool to_floats_ = false;
  ThreadPool threads_;
  std::vector<Work> work_;
  std::optional<CheckpointWriter> writer_;
};
using Quantizer = BasicQuantizer<>;
#if defined(MLLAMA_ELSEWHERE)
extern template class BasicQuantizer<>;
#endif

}  // namespace mllama
