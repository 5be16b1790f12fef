// SPDX-License-Identifier: MIT
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include <mllama/io/safetensors_writer.hpp>
#include <unit/io/temporary_folder.hpp>

#include "comparison.hpp"

using namespace mllama;
using mllama_test::TemporaryFolder;

namespace {

const std::string golden = MLLAMA_TEST_DATA "/golden/";

template <class Model>
mllama_test::Outputs run(const std::string& folder, const InputFile& inputs, const Numerics& numerics = profile::meta::numerics) {
  const auto weighted = load_weights<Model>(folder);
  return run_logits(*weighted.model, inputs, numerics, 1);
}

/// A folder of its own with a model's configuration, for weights to be put beside it.
struct Copy : TemporaryFolder {
  explicit Copy(const std::string& source) { std::filesystem::copy_file(source + "/config.json", *this / "config.json"); }
};

template <class Model>
void check_same_bits(const std::string& folder, const std::string& expected, std::string_view inputs_name) {
  const InputFile inputs(concat(expected, "/cases/", inputs_name, ".safetensors"));
  CHECK(mllama_test::same_bits(run<Model>(folder, inputs), run<Model>(expected, inputs)));
}

}  // namespace

TEST_CASE("the text model alone, as transformers saves it, computes what it computes there") {
  const std::string folder = golden + "layouts/text_only";
  std::string name;
  with_model_of(folder, Models<models::FromMeta, models::AppendixA>{}, [&]<class Model>(std::type_identity<Model>) {
    name = Model::name;
    const auto weighted = load_weights<Model>(folder);
    CHECK_FALSE(weighted.model->has_vision());
    CHECK(weighted.files.owned_bytes() == 0);
    mllama_test::check_case(folder + "/cases/left_padding",
                            [&](const InputFile& inputs, const Numerics& numerics, unsigned threads) {
                              return run_logits(*weighted.model, inputs, numerics, threads);
                            });
  });
  CHECK(name == "appendix_a");
}

TEST_CASE("the names of every layout, and mixtures of them, give the same bits") {
  using Rename = std::string (*)(std::string_view);
  const std::string source = golden + "models/appendix_a";
  const Safetensors file(source + "/model.safetensors");
  const Rename layouts[] = {
      // as modules are called in memory since transformers 4.52
      [](std::string_view key) {
        const std::string_view name = canonical_name(key);
        if (name.starts_with("lm_head.")) return std::string(name);
        const bool is_vision = name.starts_with("vision_model.") || name.starts_with("multi_modal_projector.");
        return concat(is_vision ? "model." : "model.language_model.", name);
      },
      // text as in a save of the text model alone, vision as published
      [](std::string_view key) {
        const std::string_view name = canonical_name(key);
        const bool is_published = name.starts_with("vision_model.") || name.starts_with("lm_head.");
        return concat(is_published || name.starts_with("multi_modal_projector.") ? "" : "model.", name);
      },
      // each tensor by the layout that its name's last character picks
      [](std::string_view key) {
        constexpr std::string_view prefixes[] = {"", "model.", "language_model.", "model.language_model.", "language_model.model."};
        const std::string_view name = canonical_name(key);
        return concat(prefixes[name.size() % 5], name);
      },
  };
  for (const Rename rename : layouts) {
    const Copy folder(source);
    std::vector<FileTensor> tensors;
    for (const FileTensor& tensor : file.tensors())
      tensors.push_back({rename(tensor.name), tensor.dtype, tensor.shape, tensor.bytes});
    CAPTURE(tensors.front().name);
    write_safetensors(folder / "model.safetensors", tensors);
    check_same_bits<models::AppendixA>(folder.path(), source, "published");
  }
}

TEST_CASE("Meta's own layout gives the bits of the converted one, in every form of files") {
  const std::string meta = golden + "layouts/meta", converted = golden + "models/from_meta";
  const Safetensors file(meta + "/consolidated.safetensors");
  SUBCASE("one file, as Meta names it") { check_same_bits<models::FromMeta>(meta, converted, "mixed"); }
  SUBCASE("one file, as transformers names it") {
    const Copy folder(meta);
    std::filesystem::copy_file(meta + "/consolidated.safetensors", folder / "model.safetensors");
    check_same_bits<models::FromMeta>(folder.path(), converted, "mixed");
  }
  SUBCASE("shards, which part the two halves of the embedding") {
    const Copy folder(meta);
    std::vector<FileTensor> shards[2];
    std::string map;
    for (const FileTensor& tensor : file.tensors()) {
      const std::size_t shard = tensor.name.size() % 2;
      shards[shard].push_back(tensor);
      map += concat(map.empty() ? "" : ", ", "\"", tensor.name, "\": \"", shard, ".safetensors\"");
    }
    write_safetensors(folder / "0.safetensors", shards[0]);
    write_safetensors(folder / "1.safetensors", shards[1]);
    folder.write("model.safetensors.index.json", concat(R"({"weight_map": {)", map, "}}"));
    check_same_bits<models::FromMeta>(folder.path(), converted, "mixed");
  }
  SUBCASE("Meta's names beside those of transformers") {
    const Copy folder(meta);
    const Safetensors other(converted + "/model.safetensors");
    std::vector<FileTensor> tensors;
    for (const FileTensor& tensor : file.tensors()) {
      if (tensor.name.starts_with("text_model.")) tensors.push_back(tensor);
    }
    for (const FileTensor& tensor : other.tensors()) {
      if (!tensor.name.starts_with("language_model.")) tensors.push_back(tensor);
    }
    write_safetensors(folder / "model.safetensors", tensors);
    check_same_bits<models::FromMeta>(folder.path(), converted, "mixed");
  }
}

TEST_CASE("every tensor of Meta's layout becomes the one that transformers has, and only what must move is copied") {
  const auto files = ModelFiles::open(golden + "layouts/meta"), expected = ModelFiles::open(golden + "models/from_meta");
  REQUIRE(files.tensors().size() == expected.tensors().size());
  std::size_t moved = 0;
  for (std::size_t i = 0; i < files.tensors().size(); ++i) {
    const ModelTensor &tensor = files.tensors()[i], &other = expected.tensors()[i];
    CAPTURE(tensor.name);
    CHECK(tensor.name == other.name);
    CHECK(tensor.dtype == other.dtype);
    CHECK(tensor.shape == other.shape);
    CHECK(std::ranges::equal(ModelFiles::read(tensor).bytes(), ModelFiles::read(other).bytes()));
    moved += tensor.in_place() ? 0 : tensor.bytes();
  }
  // The embedding, q and k of five layers, and three tables of 9 ratios: bfloat16.
  CHECK(moved == 2 * (98 * 48 + 5 * (48 + 16) * 48 + 9 * 4 * (5 + 1 + 1) * 16));
}
