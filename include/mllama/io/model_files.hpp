// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <memory>
#include <mllama/core/check.hpp>
#include <mllama/core/workspace.hpp>
#include <mllama/io/config.hpp>
#include <mllama/io/json_file.hpp>
#include <mllama/io/meta_layout.hpp>
#include <mllama/io/model_tensor.hpp>
#include <mllama/io/safetensors.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

/// The tensors of a model folder under the model's own names, whatever layout it was saved in.

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

/// The bytes of a model's tensor: in the mapped file or, where they had to be put together, in memory that this object owns. When it
/// goes, the memory goes that either takes, so that a folder can be read tensor by tensor whatever its size.
class TensorBytes {
 public:
  TensorBytes(const TensorBytes&) = delete;
  TensorBytes& operator=(const TensorBytes&) = delete;
  ~TensorBytes() { MappedFile::forget(mapped_); }

  [[nodiscard]] std::span<const std::byte> bytes() const noexcept { return bytes_; }

 private:
  template <class>
  friend class BasicModelFiles;

  explicit TensorBytes(const ModelTensor& tensor) {
    if (tensor.in_place()) {
      bytes_ = tensor.stored.tensor->bytes;
      if (tensor.stored.mapped) mapped_ = bytes_;
      return;
    }
    owned_ = detail::aligned_bytes(tensor.bytes());
    detail::rearrange(tensor, owned_.get());
    bytes_ = {owned_.get(), tensor.bytes()};
    tensor.stored.forget();
  }

  detail::AlignedBytes owned_;
  std::span<const std::byte> bytes_, mapped_;
};

/// A model folder, opened; may be moved. Tensors and their bytes refer to it.
template <class = void>  // a template, so that bodies are compiled where they are used and not with every include
class BasicModelFiles {
 public:
  /// Opens `model.safetensors`, or all files that `model.safetensors.index.json` names, or `consolidated.safetensors`. Names are
  /// those of any layout of transformers or, if the folder has a config.json with the sizes, Meta's.
  /// With `faults`, what is wrong is appended there, and opening goes on where it can, up to 1000 faults; otherwise it is thrown.
  /// Errors:  file_error if no such file is there or one cannot be read; format_error if a file breaks its format, if index and
  ///          files contradict each other, or if two tensors have the same canonical name; with names of Meta's also what
  ///          read_model_sizes throws.
  [[nodiscard]] static BasicModelFiles open(const std::string& folder, std::vector<Fault>* faults = nullptr) {
    BasicModelFiles files(folder);
    const Opening opening{files, faults};
    opening.attempt_files([&] { opening.add_files(); });
    opening.attempt([&] { opening.read_layout(); });
    opening.name_tensors();
    return files;
  }

  /// Tensors of the caller's, which lie anywhere in memory and outlive their use: no file is read or written. Names are those of any
  /// layout of transformers; `label` stands for the folder in messages. Quantised matrices are the tensors that they are in files.
  /// Errors:  format_error for a tensor whose shape does not make its bytes, or that has the name of another
  [[nodiscard]] static BasicModelFiles in_memory(std::vector<FileTensor> tensors, std::string label = "memory") {
    BasicModelFiles files(std::move(label));
    files.given_ = std::make_unique<Given>(Given{files.folder_, std::move(tensors)});
    for (const FileTensor& tensor : files.given_->tensors) {
      const TensorOfFile stored{&tensor, files.given_->label, false};
      if (const auto bytes = detail::tensor_bytes(tensor.dtype, tensor.shape); bytes != tensor.bytes.size()) {
        stored.fail(
            bytes ? concat(*bytes, " bytes for ", name(tensor.dtype), ' ', to_string(tensor.shape)) : std::string("a shape"),
            concat(tensor.bytes.size(), " bytes"));
      }
      files.tensors_.push_back({std::string(canonical_name(tensor.name)), tensor.dtype, tensor.shape, stored});
    }
    std::ranges::stable_sort(files.tensors_, {}, &ModelTensor::name);
    Opening{files, nullptr}.remove_duplicates(files.tensors_);
    return files;
  }

  /// The folder, as given.
  [[nodiscard]] const std::string& folder() const noexcept { return folder_; }

  /// False if faults were asked for, and a file is missing or broken: what else is missing may be in there.
  [[nodiscard]] bool complete() const noexcept { return complete_; }

  /// Sorted by canonical name.
  [[nodiscard]] std::span<const ModelTensor> tensors() const noexcept { return tensors_; }

  /// The tensor of this canonical name, or null.
  [[nodiscard]] const ModelTensor* find(std::string_view name) const noexcept {
    const ModelTensor* const place = first_from(name);
    return place != tensors_.data() + tensors_.size() && place->name == name ? place : nullptr;
  }
  /// Those whose names begin so.
  [[nodiscard]] std::span<const ModelTensor> with_prefix(std::string_view prefix) const noexcept {
    const ModelTensor* const first = first_from(prefix);
    const ModelTensor* last = first;
    while (last != tensors_.data() + tensors_.size() && last->name.starts_with(prefix)) ++last;
    return {first, last};
  }

  /// A tensor of this folder in the model's arrangement.
  [[nodiscard]] static TensorBytes read(const ModelTensor& tensor) { return TensorBytes(tensor); }

  /// On disk, or in the caller's memory, of all tensors.
  [[nodiscard]] std::size_t mapped_bytes() const noexcept {
    std::size_t sum = 0;
    for (const auto& file : files_) {
      for (const FileTensor& tensor : file->content.tensors()) sum += tensor.bytes.size();
    }
    if (given_ != nullptr) {
      for (const FileTensor& tensor : given_->tensors) sum += tensor.bytes.size();
    }
    return sum;
  }

 private:
  static constexpr std::size_t most_faults = 1000;

  struct File {
    std::string path;
    Safetensors content;
    std::vector<const FileTensor*> tensors;  ///< those that the index does not give to another file
  };

  explicit BasicModelFiles(std::string folder) : folder_(std::move(folder)) {}

  [[nodiscard]] const ModelTensor* first_from(std::string_view name) const noexcept {
    const ModelTensor* const begin = tensors_.data();
    return std::lower_bound(begin, begin + tensors_.size(), name,
                            [](const ModelTensor& tensor, std::string_view key) { return tensor.name < key; });
  }

  /// What happens once, when a folder is opened.
  struct Opening {
    BasicModelFiles& files;
    std::vector<Fault>* faults;

    template <class Action>
    void attempt(Action&& action) const {
      try {
        action();
      } catch (const error& problem) {
        if (faults == nullptr || faults->size() >= most_faults) throw;
        faults->push_back(problem.fault());
      }
    }

    template <class Action>
    void attempt_files(Action&& action) const {
      bool done = false;
      attempt([&] {
        action();
        done = true;
      });
      files.complete_ = files.complete_ && done;
    }

    void add_files() const {
      const std::string& folder = files.folder_;
      const auto here = [&](std::string_view name) { return detail::exists(concat(folder, '/', name)); };
      // As transformers does it: an index beside a single file is a rest of something else.
      if (here("model.safetensors")) {
        add_all_of("model.safetensors");
      } else if (here("model.safetensors.index.json")) {
        add_shards(JsonFile(folder + "/model.safetensors.index.json", JsonLimits{}).root()["weight_map"]);
      } else if (here("consolidated.safetensors")) {
        add_all_of("consolidated.safetensors");
      } else {
        const bool pickled = here("consolidated.00.pth") || here("consolidated.pth") || here("pytorch_model.bin") ||
                             here("pytorch_model.bin.index.json");
        throw file_error(Fault{.file = folder,
                               .expected = "model.safetensors, model.safetensors.index.json or consolidated.safetensors",
                               .found = pickled                  ? "pickled weights only"
                                        : detail::exists(folder) ? "none of them"
                                                                 : "no such folder",
                               .note = pickled ? "convert them to safetensors; unpickling a file runs code that is in it" : ""});
      }
    }

    [[nodiscard]] File& add(std::string_view name) const {
      std::string path = concat(files.folder_, '/', name);
      Safetensors content(path);
      files.files_.push_back(std::make_unique<File>(File{std::move(path), std::move(content), {}}));
      return *files.files_.back();
    }
    void add_all_of(std::string_view name) const {
      File& file = add(name);
      for (const FileTensor& tensor : file.content.tensors()) file.tensors.push_back(&tensor);
    }

    /// A tensor's name, and the file that the index gives it to.
    struct Place {
      std::string shard, key;
      JsonView value;
    };
    using Places = std::span<const Place>;

    void add_shards(const JsonField& map) const {
      std::vector<Place> places;
      map.view(JsonView::Kind::object, "an object of tensor names and file names")
          .for_each_member([&](JsonView key, JsonView value) {
            attempt([&] { places.push_back({plain_name(map.member(key.string(), value)), key.string(), value}); });
          });
      std::ranges::sort(places, {}, &Place::key);
      std::vector<Place> by_shard = places;  // in the order of the files and, within one, of its tensors
      std::ranges::stable_sort(by_shard, {}, &Place::shard);
      for (auto first = by_shard.begin(); first != by_shard.end();) {
        const auto last = std::find_if(first, by_shard.end(), [&](const Place& place) { return place.shard != first->shard; });
        attempt_files([&] { add_shard(map, places, {first, last}); });
        first = last;
      }
    }

    [[nodiscard]] static std::string plain_name(const JsonField& field) {
      auto name = field.as<std::string>();
      if (!detail::is_plain_name(name)) field.fail("the name of a file in the same folder");
      return name;
    }

    /// Adds the file of `expected`, which is all that the index has in it; `all` is the whole index.
    void add_shard(const JsonField& map, Places all, Places expected) const {
      const std::string& name = expected.front().shard;
      File& file = add(name);
      auto place = expected.begin();
      const auto fail_absent = [&] {
        attempt([&] { map.member(place->key, place->value).fail("a file that has this tensor"); });
        ++place;
      };
      for (const FileTensor& tensor : file.content.tensors()) {
        while (place != expected.end() && place->key < tensor.name) fail_absent();
        if (place != expected.end() && place->key == tensor.name) {
          file.tensors.push_back(&tensor);
          ++place;
          continue;
        }
        const auto other = std::ranges::lower_bound(all, tensor.name, {}, &Place::key);
        const bool is_elsewhere = other != all.end() && other->key == tensor.name;
        attempt([&] {
          map.member(tensor.name, is_elsewhere ? other->value : JsonView())
              .fail(concat('"', name, '"'), "the file has a tensor of this name");
        });
        if (!is_elsewhere) file.tensors.push_back(&tensor);
      }
      while (place != expected.end()) fail_absent();
    }

    void read_layout() const {
      for (const auto& file : files.files_) {
        for (const FileTensor* const tensor : file->tensors) {
          if (!is_meta_name(tensor->name)) continue;
          files.layout_.emplace(read_model_sizes(files.folder_));
          return;
        }
      }
    }

    void name_tensors() const {
      std::vector<ModelTensor>& tensors = files.tensors_;
      for (const auto& file : files.files_) {
        for (const FileTensor* const tensor : file->tensors) {
          const TensorOfFile stored{tensor, file->path};
          attempt([&] {
            if (files.layout_ && is_meta_name(tensor->name)) {
              if (auto renamed = files.layout_->tensor(stored)) tensors.push_back(std::move(*renamed));
            } else {
              tensors.push_back({std::string(canonical_name(tensor->name)), tensor->dtype, tensor->shape, stored});
            }
          });
        }
      }
      std::ranges::stable_sort(tensors, {}, &ModelTensor::name);
      remove_duplicates(tensors);
      attempt([&] { join_embeddings(tensors); });
    }

    void remove_duplicates(std::vector<ModelTensor>& tensors) const {
      const auto same_name = [](const ModelTensor& a, const ModelTensor& b) { return a.name == b.name; };
      for (auto first = tensors.begin(); (first = std::adjacent_find(first, tensors.end(), same_name)) != tensors.end(); ++first) {
        const TensorOfFile &one = first->stored, &other = std::next(first)->stored;
        attempt([&] {
          throw format_error(Fault{.file = std::string(other.file),
                                   .field = other.tensor->name,
                                   .note = concat("names the same tensor as ", one.tensor->name, " of ", one.file)});
        });
      }
      tensors.erase(std::unique(tensors.begin(), tensors.end(), same_name), tensors.end());
    }

    /// Meta's layout has the embedding in two parts.
    void join_embeddings(std::vector<ModelTensor>& tensors) const {
      const auto find = [&](std::string_view name) { return std::ranges::find(tensors, name, &ModelTensor::name); };
      const auto embedding = find(detail::embedding_name), rest = find(detail::extra_embedding_name);
      if (embedding == tensors.end() || !is_meta_name(embedding->stored.tensor->name)) return;
      if (rest == tensors.end()) {
        embedding->stored.fail("a tensor text_model.learnable_embedding.weight with its last rows", "none of this name");
      }
      MetaLayout::join(*embedding, rest->stored);
      tensors.erase(rest);
    }
  };

  struct Given {
    std::string label;
    std::vector<FileTensor> tensors;
  };

  std::string folder_;
  std::vector<std::unique_ptr<File>> files_;
  std::unique_ptr<const Given> given_;  ///< in place of files
  std::optional<MetaLayout> layout_;
  std::vector<ModelTensor> tensors_;
  bool complete_ = true;
};
using ModelFiles = BasicModelFiles<>;
#if defined(MLLAMA_ELSEWHERE)
extern template class BasicModelFiles<>;
#endif

}  // namespace mllama
