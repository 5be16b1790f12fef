// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <limits>
#include <mllama/core/check.hpp>
#include <mllama/core/python_json.hpp>
#include <mllama/io/output_folder.hpp>
#include <mllama/io/safetensors_writer.hpp>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace mllama {

/// A tensor that a CheckpointWriter is going to write.
struct PlannedTensor {
  std::string name;
  Dtype dtype = Dtype::F32;
  Shape shape;
  bool late = false;  ///< `shape` is one length, the most that it may be; the true one is told by `set_length`
};

struct CheckpointWriterOptions {
  std::size_t max_shard_bytes = 5'000'000'000;       ///< of tensors, as transformers 4 has it; a larger tensor is alone in its file
  std::optional<std::size_t> total_parameters = {};  ///< for the index, if there is one
  Metadata metadata{{"format", "pt"}};               ///< of each file; the reader of transformers insists on this format
};

/// Writes a model folder as `save_pretrained` does: `model.safetensors`, or several files and their index. Tensors are declared at
/// the beginning, and their bytes are written in pieces straight to their places; nothing is held in memory. The folder appears
/// complete or not at all, see OutputFolder. The files are those of the reference writer byte for byte, except that headers have
/// room for late tensors of the greatest length, and are filled up with spaces if they turn out shorter.
///
///     CheckpointWriter writer("out", {{"a.weight", Dtype::U8, {n, 1}}, {"a.weight.state", Dtype::U8, {most}, true}});
///     writer.write(0, 0, codes);                // from any thread, in any order
///     writer.set_length(1, text.size());
///     writer.write(1, 0, text);
///     writer.commit();
///
/// In a file, tensors are ordered by element type, widest first, then by name. Places behind a late tensor are known when its
/// length is: nothing can be written there before.
/// Errors:  those of OutputFolder, file_error also for lack of space, and format_error for names and shapes that no file can have,
///          before anything is written; input_error for calls that break the rules above.
template <class = void>  // a template, so that bodies are compiled where they are used and not with every include
class BasicCheckpointWriter {
 public:
  BasicCheckpointWriter(std::string folder, std::vector<PlannedTensor> tensors, CheckpointWriterOptions options = {})
      : folder_(std::move(folder)), options_(std::move(options)) {
    for (PlannedTensor& tensor : tensors) tensors_.push_back({std::move(tensor)});
    check_tensors();
    assign_shards();
    std::size_t bytes = 0;
    for (Shard& shard : shards_) bytes += plan(shard);
    folder_.check_space(bytes);
    for (Shard& shard : shards_) shard.file = &folder_.create_file(shard.name);
  }

  /// Of tensors; their numbers are those of their declarations.
  [[nodiscard]] std::size_t size() const noexcept { return tensors_.size(); }
  /// The number of the tensor of this name.
  [[nodiscard]] std::size_t find(std::string_view name) const {
    const auto place = std::lower_bound(by_name_.begin(), by_name_.end(), name,
                                        [&](std::size_t i, std::string_view key) { return tensors_[i].name < key; });
    check(place != by_name_.end() && tensors_[*place].name == name,
          [&] { return Fault{.file = folder_.path(), .field = std::string(name), .note = "no tensor of this name was declared"}; });
    return *place;
  }

  /// The length of a late tensor, once.
  void set_length(std::size_t tensor, std::size_t length) {
    const std::lock_guard lock(mutex_);
    Tensor& late = declared(tensor);
    require(late, late.late, "a tensor declared as late", "one whose length is known");
    require(late, length <= late.shape[0], concat("a length of at most ", late.shape[0]), concat(length));
    late.shape = {length};
    late.late = false;
    late.bytes = bytes(late);
    place_tensors(shards_[late.shard]);
  }

  /// Writes part of a tensor: `bytes`, from its byte `offset` on. In the end each byte must have been written once.
  void write(std::size_t tensor, std::size_t offset, std::span<const std::byte> bytes) {
    const auto [file, place] = checked_place(tensor, offset, bytes.size());
    file->write(place, bytes);
    const std::lock_guard lock(mutex_);
    tensors_[tensor].written += bytes.size();
  }
  void write(std::size_t tensor, std::size_t offset, std::string_view text) {
    write(tensor, offset, std::as_bytes(std::span(text)));
  }

  /// The other files of the folder. Not from several threads at once.
  void add_file(std::string_view name, std::string_view text) { folder_.add_file(name, text); }
  void copy_file(const std::string& from, std::string_view name) { folder_.copy_file(from, name); }

  /// See OutputFolder::rests.
  [[nodiscard]] std::span<const std::string> rests() const noexcept { return folder_.rests(); }

  /// Of all tensors, as far as lengths are known; an upper bound before.
  [[nodiscard]] std::size_t tensor_bytes() const noexcept {
    std::size_t sum = 0;
    for (const Tensor& tensor : tensors_) sum += tensor.bytes;
    return sum;
  }

  /// Writes the headers and the index, and gives the folder its name. When all `write` have returned, and once.
  void commit() {
    for (const Tensor& tensor : tensors_) {
      require(tensor, !tensor.late, "a length", "none");
      require(tensor, tensor.written == tensor.bytes, concat(tensor.bytes, " bytes to be written"), concat(tensor.written));
    }
    for (const Shard& shard : shards_) {
      const std::string header = safetensors_header(shard);
      shard.file->write(0, std::as_bytes(std::span(header)));
    }
    if (shards_.size() > 1) folder_.add_file("model.safetensors.index.json", index());
    folder_.commit();
  }

 private:
  struct Tensor : PlannedTensor {
    std::size_t bytes = 0, shard = 0, place = 0;  ///< in the file, if its number there is below Shard::placed
    std::size_t order = 0;                        ///< number in the file
    std::size_t written = 0;
  };
  struct Shard {
    std::string name;
    std::vector<std::size_t> tensors;  ///< in the order of the file
    std::size_t header_bytes = 0;
    std::size_t placed = 0;  ///< how many of them have a place
    detail::NewFile* file = nullptr;
  };

  void require(const Tensor& tensor, bool holds, std::string_view expected, std::string_view found) const {
    check(holds, [&] {
      return Fault{.file = folder_.path(), .field = tensor.name, .expected = std::string(expected), .found = std::string(found)};
    });
  }

  [[nodiscard]] Tensor& declared(std::size_t number) {
    check(number < tensors_.size(), [&] {
      return Fault{.file = folder_.path(),
                   .expected = concat("the number of one of ", tensors_.size(), " tensors"),
                   .found = concat(number)};
    });
    return tensors_[number];
  }

  [[nodiscard]] static std::size_t bytes(const PlannedTensor& tensor) {
    return detail::tensor_bytes(tensor.dtype, tensor.shape).value_or(std::numeric_limits<std::size_t>::max());
  }

  void check_tensors() {
    constexpr std::size_t most = std::size_t{1} << 62U;
    std::size_t sum = 0;
    for (Tensor& tensor : tensors_) {
      require(tensor, !tensor.late || (tensor.shape.size() == 1 && bits(tensor.dtype) % 8 == 0),
              "one length of a late tensor, of elements of whole bytes", concat(name(tensor.dtype), " ", to_string(tensor.shape)));
      tensor.bytes = bytes(tensor);
      sum = std::min(most, sum) + std::min(most, tensor.bytes);
      check<format_error>(sum < most, [&] {
        return Fault{.file = folder_.path(),
                     .field = tensor.name,
                     .expected = "a whole number of bytes, and less than 2^62 of all tensors",
                     .found = concat(name(tensor.dtype), " ", to_string(tensor.shape))};
      });
    }
    for (std::size_t i = 0; i < tensors_.size(); ++i) by_name_.push_back(i);
    std::sort(by_name_.begin(), by_name_.end(), [&](std::size_t a, std::size_t b) { return tensors_[a].name < tensors_[b].name; });
    const auto twice = std::adjacent_find(by_name_.begin(), by_name_.end(),
                                          [&](std::size_t a, std::size_t b) { return tensors_[a].name == tensors_[b].name; });
    check<format_error>(twice == by_name_.end(), [&] {
      return Fault{
          .file = folder_.path(), .field = tensors_[*twice].name, .expected = "every name once", .found = "this one twice"};
    });
  }

  /// In the order of the declarations, as transformers does it; late tensors count with their bounds.
  void assign_shards() {
    std::vector<std::size_t> current;
    std::size_t size = 0;  // of the current file
    const auto finish = [&] {
      shards_.emplace_back().tensors = std::exchange(current, {});
      size = 0;
    };
    for (std::size_t i = 0; i < tensors_.size(); ++i) {
      if (tensors_[i].bytes > options_.max_shard_bytes) {
        shards_.emplace_back().tensors = {i};
        continue;
      }
      if (size + tensors_[i].bytes > options_.max_shard_bytes) finish();
      current.push_back(i);
      size += tensors_[i].bytes;
    }
    if (!current.empty() || shards_.empty()) finish();

    for (std::size_t i = 0; i < shards_.size(); ++i) {
      shards_[i].name =
          shards_.size() == 1 ? "model.safetensors" : concat("model-", five(i + 1), "-of-", five(shards_.size()), ".safetensors");
      for (const std::size_t tensor : shards_[i].tensors) tensors_[tensor].shard = i;
    }
  }
  static std::string five(std::size_t number) {
    const std::string digits = concat(number);
    return digits.size() < 5 ? std::string(5 - digits.size(), '0') + digits : digits;
  }

  [[nodiscard]] std::string safetensors_header(const Shard& shard) const {
    std::vector<detail::HeaderTensor> entries;
    entries.reserve(shard.tensors.size());
    for (const std::size_t i : shard.tensors) entries.push_back(entry(tensors_[i]));
    return detail::safetensors_header(entries, options_.metadata, concat(folder_.path(), '/', shard.name), shard.header_bytes);
  }
  [[nodiscard]] static detail::HeaderTensor entry(const Tensor& tensor) {
    return {tensor.name, tensor.dtype, tensor.shape, tensor.bytes};
  }

  /// The order of a file, and the room for its header. Returns the size of the file, or more.
  std::size_t plan(Shard& shard) {
    std::sort(shard.tensors.begin(), shard.tensors.end(), [&](std::size_t a, std::size_t b) {
      return detail::HeaderTensor::in_file_order(entry(tensors_[a]), entry(tensors_[b]));
    });
    shard.header_bytes = safetensors_header(shard).size();
    std::size_t end = shard.header_bytes;
    for (std::size_t order = 0; order < shard.tensors.size(); ++order) {
      Tensor& tensor = tensors_[shard.tensors[order]];
      tensor.order = order;
      end += tensor.bytes;
    }
    place_tensors(shard);
    return end;
  }

  /// Gives places to the tensors up to the first whose length is not known; that one has a place.
  void place_tensors(Shard& shard) {
    for (; shard.placed < shard.tensors.size(); ++shard.placed) {
      std::size_t place = shard.header_bytes;
      if (shard.placed > 0) {
        const Tensor& before = tensors_[shard.tensors[shard.placed - 1]];
        if (before.late) return;
        place = before.place + before.bytes;
      }
      tensors_[shard.tensors[shard.placed]].place = place;
    }
  }

  /// The file, and the byte of it.
  std::pair<const detail::NewFile*, std::size_t> checked_place(std::size_t number, std::size_t offset, std::size_t size) {
    const std::lock_guard lock(mutex_);
    const Tensor& tensor = declared(number);
    const Shard& shard = shards_[tensor.shard];
    require(tensor, !tensor.late, "a length before bytes", "none");
    require(tensor, tensor.order < shard.placed, "lengths of all late tensors before this one in the file", "one without");
    require(tensor, offset <= tensor.bytes && size <= tensor.bytes - offset, concat("a place in ", tensor.bytes, " bytes"),
            concat(size, " from ", offset, " on"));
    return {shard.file, tensor.place + offset};
  }

  [[nodiscard]] std::string index() const {
    std::string text = "{\n  \"metadata\": {\n";
    if (options_.total_parameters) text += concat("    \"total_parameters\": ", *options_.total_parameters, ",\n");
    text += concat("    \"total_size\": ", tensor_bytes(), "\n  },\n  \"weight_map\": {");
    const char* separator = "";
    for (const std::size_t i : by_name_) {
      text += concat(std::exchange(separator, ","), "\n    ", python_string(tensors_[i].name), ": ",
                     python_string(shards_[tensors_[i].shard].name));
    }
    return text += "\n  }\n}\n";
  }

  OutputFolder folder_;
  CheckpointWriterOptions options_;
  std::vector<Tensor> tensors_;
  std::vector<std::size_t> by_name_;
  std::vector<Shard> shards_;
  std::mutex mutex_;  ///< of lengths, places and counts
};
using CheckpointWriter = BasicCheckpointWriter<>;
#if defined(MLLAMA_ELSEWHERE)
extern template class BasicCheckpointWriter<>;
#endif

}  // namespace mllama
