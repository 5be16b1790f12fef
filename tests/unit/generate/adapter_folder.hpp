// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <mllama/core/visit.hpp>
#include <mllama/models/mllama/adapted.hpp>
#include <unit/generate/tiny_folder.hpp>
#include <unit/layers/random_rows.hpp>

namespace mllama_test {

using AdaptedTiny = mllama::Adapted<Tiny>;

/// A matrix that adapters may change.
struct AdaptableMatrix {
  std::string module;  ///< path as in checkpoints before transformers 4.52
  std::size_t rows, columns;
  bool is_table, has_bias;
};

namespace detail {
template <class Parent>
void list_matrices(std::vector<AdaptableMatrix>& matrices, const Parent& parent, const std::string& prefix = {}) {
  mllama::for_each_child(parent, [&]<class Child>(std::string_view key, const Child& child) {
    const std::string path = prefix + std::string(key);
    if constexpr (!mllama::ParameterLeaf<Child>) {
      if constexpr (requires { child.branches; }) {
        const auto& shape = std::remove_cvref_t<decltype(child.weight)>::shape;
        matrices.push_back({path, shape[0], shape[1], requires { child.padding_index;
      }
      , requires { child.bias.data(); }
    });
      }
      list_matrices(matrices, child, path + ".");
}
});
}
}  // namespace detail

/// Of the adapted tiny model: all linears and the table of tokens.
inline std::vector<AdaptableMatrix> adaptable_matrices() {
  std::vector<AdaptableMatrix> matrices;
  const auto model = std::make_unique<AdaptedTiny>();
  detail::list_matrices(matrices, *model);
  return matrices;
}

/// The same path as releases of transformers since 4.52 have it.
inline std::string new_path(std::string_view path) {
  if (path == "language_model.lm_head") return "lm_head";
  const std::string_view text = "language_model.model";
  return path.starts_with(text) ? "model.language_model" + std::string(path.substr(text.size())) : "model." + std::string(path);
}

/// An adapter as PEFT would save it, for a test to damage: its configuration and tensors are written by `write`.
class AdapterFolder : public TemporaryFolder {
 public:
  explicit AdapterFolder(std::uint32_t seed, std::string_view fields = {}) : seed_(seed) { configure(fields); }

  /// Rank 3, alpha 4, and fields beside them: `"use_dora": true`.
  void configure(std::string_view fields) {
    config = R"({"peft_type": "LORA", "r": 3, "lora_alpha": 4)";
    if (!fields.empty()) config += ", " + std::string(fields);
    config += '}';
  }

  SavedTensor& add(std::string name, std::vector<std::size_t> shape, float size = 0.5F) {
    SavedTensor tensor{"base_model.model." + std::move(name), std::move(shape), {}};
    std::size_t count = 1;
    for (const std::size_t length : tensor.shape) count *= length;
    tensor.values.resize(count);
    fill_random(tensor.values, seed_ += 7);
    for (float& value : tensor.values) value *= size;
    return tensors.emplace_back(std::move(tensor));
  }
  void add_change(const std::string& path, std::size_t rows, std::size_t columns, std::size_t rank = 3) {
    add(path + ".lora_A.weight", {rank, columns});
    add(path + ".lora_B.weight", {rows, rank});
  }
  void add_change(const AdaptableMatrix& matrix, std::size_t rank = 3) {
    if (!matrix.is_table) return add_change(matrix.module, matrix.rows, matrix.columns, rank);
    add(matrix.module + ".lora_embedding_A", {rank, matrix.rows});
    add(matrix.module + ".lora_embedding_B", {matrix.columns, rank});
  }
  SavedTensor& find(std::string_view end_of_name) {
    for (SavedTensor& tensor : tensors) {
      if (tensor.name.ends_with(end_of_name)) return tensor;
    }
    throw std::runtime_error("no such tensor");
  }

  const std::string& write() const {
    TemporaryFolder::write("adapter_config.json", config);
    save(*this / "adapter_model.safetensors", tensors);
    return path();
  }

  std::string config;
  std::vector<SavedTensor> tensors;

 private:
  std::uint32_t seed_;
};

}  // namespace mllama_test
