// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <string>
#include <vector>

#include <mllama/generate/adapter_merge.hpp>
#include <mllama/generate/adapters.hpp>
#include <mllama/generate/pretrained.hpp>

#include "adapter_folder.hpp"
#include "allocations.hpp"
#include "padded_prompt.hpp"

using namespace mllama;
using namespace mllama_test;

namespace {

constexpr std::uint32_t seed = 97;
/// A model with changed weights, and one with changes beside them, round differently.
constexpr double merged_tolerance = 1e-5;

/// Logits of two texts with a picture each; one of the texts has rows that see none.
template <class Model>
std::vector<float> logits(const Model& model) {
  RandomPicture<> a(seed), b(seed + 1, 1);
  Context ctx(2);
  PaddedRun<Model> run(model, profile::meta::numerics);
  const auto rows = run.prompt(PaddedPrompt({{4, image, 5, 6}, {7, 8, image}}, {&a, &b}).inputs(), ctx);
  return {rows.flat().begin(), rows.flat().end()};
}

/// The tiny model of a folder, adapted, and a place for its adapters.
struct Fixture {
  TinyFolder base{seed};
  Weighted<AdaptedTiny> loaded = load_weights<AdaptedTiny>(base.path());
  Context<> ctx{2};
  Adapters adapters;
  std::vector<float> before = logits(*loaded.model);

  [[nodiscard]] std::vector<float> now() const { return logits(*loaded.model); }

  /// Adds an adapter that must be refused, and leaves the model as it is. Returns the error, without the folder's name.
  template <class Error>
  std::string failure(const AdapterFolder& folder, double scale = 1) {
    const std::vector<float> as_it_is = now();
    const std::size_t count = adapters.size();
    std::string text = message<Error>([&] { adapters.add(loaded, folder.write(), ctx, scale); });
    CHECK(adapters.size() == count);
    CHECK(same(now(), as_it_is));
    const std::string path = folder.path() + "/";
    return text.starts_with(path) ? text.substr(path.size()) : text;
  }

  /// Logits of a model whose file has the weights that an adapter makes of the base's.
  [[nodiscard]] std::vector<float> merged(const AdapterFolder& folder, double scale) const {
    AdapterMerge merge_of;
    merge_of.add(folder.write(), scale);
    std::vector<SavedTensor> tensors = saved_tensors(*base.random.model);
    ThreadPool threads(2);
    for (SavedTensor& tensor : tensors) {
      const std::string_view name = canonical_name(tensor.name);
      const std::size_t rows = tensor.shape[0], columns = tensor.values.size() / rows;
      const auto [replacement, changes] =
          merge_of.of(name, tensor.shape, Weights<F32>{tensor.values.data(), rows, columns}, threads);
      CHECK(replacement == nullptr);
      if (changes.empty()) continue;
      const auto beside = std::ranges::find(tensors, replaced(tensor.name, ".weight", ".bias"), &SavedTensor::name);
      const std::span<float> bias = beside == tensors.end() ? std::span<float>() : std::span(beside->values);
      merge(changes, 0, {tensor.values.data(), rows, columns, columns}, bias);
    }
    merge_of.check_all_used();
    const TemporaryFolder changed;
    changed.write("config.json", tiny_config);
    save(changed / "model.safetensors", tensors);
    return logits(*load_weights<Tiny>(changed.path()).model);
  }
};

const std::string q_proj = "language_model.model.layers.0.self_attn.q_proj", fc1 = "vision_model.transformer.layers.1.mlp.fc1",
                  up_proj = "language_model.model.layers.4.mlp.up_proj";

}  // namespace

TEST_CASE_FIXTURE(Fixture, "an adapter on every matrix: unmerged as merged") {
  CAPTURE(seed);
  const auto matrices = adaptable_matrices();
  CHECK(matrices.size() == 5 * 6 + 3 * 7 + 2 * 7 + 3);  // vision, self- and cross-attention layers; projector, head and tokens
  AdapterFolder folder(seed);
  SUBCASE("plain") {
    for (const AdaptableMatrix& matrix : matrices) folder.add_change(matrix);
  }
  SUBCASE("under the new keys") {
    for (AdaptableMatrix matrix : matrices) {
      matrix.module = new_path(matrix.module);
      folder.add_change(matrix);
    }
  }
  SUBCASE("with magnitudes") {
    folder.configure(R"("use_dora": true)");
    for (const AdaptableMatrix& matrix : matrices) {
      if (matrix.is_table) continue;
      folder.add_change(matrix);
      for (float& value : folder.add(matrix.module + ".lora_magnitude_vector", {matrix.rows}).values) value += 1;
    }
  }
  SUBCASE("with biases, where the base has some") {
    folder.configure(R"("lora_bias": true)");
    for (const AdaptableMatrix& matrix : matrices) {
      if (!matrix.has_bias) continue;
      folder.add_change(matrix);
      folder.add(matrix.module + ".lora_B.bias", {matrix.rows});
    }
  }
  adapters.add(loaded, folder.write(), ctx, 0.7);
  CHECK(difference(now(), before) > 0.05);
  CHECK(difference(now(), merged(folder, 0.7)) < merged_tolerance);
  adapters.scale(0, -0.3);
  CHECK(difference(now(), merged(folder, -0.3)) < merged_tolerance);
}

TEST_CASE_FIXTURE(Fixture, "every single matrix is reached") {
  CAPTURE(seed);
  for (const AdaptableMatrix& matrix : adaptable_matrices()) {
    CAPTURE(matrix.module);
    AdapterFolder folder(seed);
    folder.add_change(matrix);
    adapters.add(loaded, folder.write(), ctx);
    CHECK(difference(now(), before) > 1e-4);
    adapters.turn(adapters.size() - 1, false);
    CHECK(same(now(), before));
  }
}

TEST_CASE_FIXTURE(Fixture, "adapters are switched and scaled while the model is in use") {
  CAPTURE(seed);
  AdapterFolder one(seed), two(seed + 1, R"("use_dora": true)");
  for (const AdaptableMatrix& matrix : adaptable_matrices()) {
    one.add_change(matrix);
    if (matrix.is_table || matrix.rows > 100) continue;
    two.add_change(matrix);
    for (float& value : two.add(matrix.module + ".lora_magnitude_vector", {matrix.rows}).values) value += 1;
  }
  adapters.add(loaded, one.write(), ctx);
  const std::vector<float> with_one = now();
  adapters.add(loaded, two.write(), ctx, 0.5);
  const std::vector<float> with_both = now();
  CHECK(adapters.size() == 2);
  CHECK(adapters.name(1) == two.path());
  CHECK(adapters.scale(1) == 0.5);
  CHECK(adapters.is_on(1));
  CHECK(difference(with_both, with_one) > 0.05);

  adapters.turn(1, false);
  CHECK_FALSE(adapters.is_on(1));
  CHECK(same(now(), with_one));
  adapters.turn(0, false);
  CHECK(same(now(), before));
  adapters.turn(0, true);
  adapters.scale(0, 0);
  CHECK(same(now(), before));
  adapters.scale(0, 1);
  adapters.turn(1, true);
  CHECK(same(now(), with_both));

  CHECK(message<input_error>([&] { adapters.scale(2, 1); }) == "adapter: expected a number below 2, found 2");
  CHECK(message<input_error>([&] { adapters.scale(0, HUGE_VAL); }) == "scale: expected a finite number, found inf");
  CHECK(same(now(), with_both));
}

TEST_CASE_FIXTURE(Fixture, "caches keep what the adapters made of them, and text that follows is read by those of now") {
  CAPTURE(seed);
  AdapterFolder folder(seed);
  for (const AdaptableMatrix& matrix : adaptable_matrices()) folder.add_change(matrix);
  adapters.add(loaded, folder.write(), ctx);
  adapters.turn(0, false);
  const auto last = [](std::span<const float> row) { return std::vector<float>(row.begin(), row.end()); };
  Session plain(*loaded.model, ctx), mixed(*loaded.model, ctx), adapted(*loaded.model, ctx);
  static_cast<void>(plain.append(Ids{4, 5, 6}));
  static_cast<void>(mixed.append(Ids{4, 5, 6}));
  const auto plain_then_plain = last(plain.append(Ids{7}));
  adapters.turn(0, true);
  static_cast<void>(adapted.append(Ids{4, 5, 6}));
  const auto plain_then_adapted = last(mixed.append(Ids{7})), adapted_then_adapted = last(adapted.append(Ids{7}));
  CHECK(difference(plain_then_adapted, plain_then_plain) > 0.01);
  CHECK(difference(plain_then_adapted, adapted_then_adapted) > 0.01);
}

TEST_CASE_FIXTURE(Fixture, "after warm-up a decode step allocates nothing") {
  CAPTURE(seed);
  AdapterFolder one(seed), two(seed + 1, R"("use_dora": true)");
  for (const AdaptableMatrix& matrix : adaptable_matrices()) {
    one.add_change(matrix);
    if (matrix.is_table) continue;
    two.add_change(matrix);
    two.add(matrix.module + ".lora_magnitude_vector", {matrix.rows});
  }
  adapters.add(loaded, one.write(), ctx);
  adapters.add(loaded, two.write(), ctx);
  Session session(*loaded.model, ctx);
  session.reserve(64);
  static_cast<void>(session.append(Ids{4, 5, 6}));
  const auto step = [&] { static_cast<void>(session.append(std::array{7})); };
  for (int i = 0; i < 3; ++i) step();
  const std::size_t count = allocations();
  for (int i = 0; i < 10; ++i) step();
  adapters.scale(0, 0.5);
  adapters.turn(1, false);
  for (int i = 0; i < 10; ++i) step();
  CHECK(allocations() - count == 0);
}

TEST_CASE_FIXTURE(Fixture, "tensors that take the place of the base's") {
  CAPTURE(seed);
  AdapterFolder folder(
      seed, R"("modules_to_save": ["language_model.model.norm", "multi_modal_projector", "layers.1.mlp"], "bias": "all")");
  const std::vector<std::string> names{"language_model.model.norm.weight", "multi_modal_projector.weight",
                                       "multi_modal_projector.bias", "language_model.model.layers.1.mlp.gate_proj.weight",
                                       fc1 + ".bias"};
  std::vector<SavedTensor> tensors = saved_tensors(*base.random.model);
  for (const std::string& name : names) {
    SavedTensor& tensor = *std::ranges::find(tensors, name, &SavedTensor::name);
    tensor.values = folder.add(name, tensor.shape).values;
  }
  const TemporaryFolder changed;
  changed.write("config.json", tiny_config);
  save(changed / "model.safetensors", tensors);
  const std::vector<float> expected = logits(*load_weights<Tiny>(changed.path()).model);

  CHECK(failure<config_error>(folder, 0.5) ==
        concat(folder.path(),
               ": scale: expected 1, because the adapter replaces vision_model.transformer.layers.1.mlp.fc1.bias, found 0.5"));
  adapters.add(loaded, folder.write(), ctx);
  CHECK(same(now(), expected));

  SUBCASE("are there for good") {
    const std::string text =
        folder.path() + ": scale: expected 1, because the adapter replaces vision_model.transformer.layers.1.mlp.fc1.bias, found ";
    CHECK(message<config_error>([&] { adapters.scale(0, 2); }) == text + "2");
    CHECK(message<config_error>([&] { adapters.turn(0, false); }) == text + "off");
    CHECK_NOTHROW(adapters.scale(0, 1));
    CHECK(same(now(), expected));
  }
  SUBCASE("are replaced once") {
    AdapterFolder second(seed, R"("modules_to_save": ["norm"])");
    second.add("language_model.model.norm.weight", {24});
    CHECK(failure<config_error>(second) == concat("adapter_model.safetensors: norm.weight: ", folder.path(), " replaces it, too"));
  }
  SUBCASE("are not changed by another adapter; a bias may lie beside a change") {
    AdapterFolder second(seed);
    second.add_change("multi_modal_projector", 24, 36);
    CHECK(failure<config_error>(second) ==
          concat("adapter_model.safetensors: multi_modal_projector.weight: ", folder.path(), " replaces it"));
    AdapterFolder third(seed);
    third.add_change(fc1, 20, 12);
    adapters.add(loaded, third.write(), ctx);
    CHECK_FALSE(same(now(), expected));
  }
}

TEST_CASE_FIXTURE(Fixture, "what one adapter changes no other replaces, nor it itself") {
  CAPTURE(seed);
  AdapterFolder both(seed, R"("modules_to_save": ["up_proj"])");
  both.add_change(up_proj, 40, 24);
  both.add(up_proj + ".weight", {40, 24});
  CHECK(failure<config_error>(both) ==
        concat("adapter_model.safetensors: layers.4.mlp.up_proj.weight: ", both.path(), " both replaces and changes it"));
  AdapterFolder one(seed), two(seed, R"("modules_to_save": ["up_proj"])");
  one.add_change(up_proj, 40, 24);
  two.add(up_proj + ".weight", {40, 24});
  adapters.add(loaded, one.write(), ctx);
  CHECK(failure<config_error>(two) ==
        concat("adapter_model.safetensors: layers.4.mlp.up_proj.weight: ", one.path(), " changes it"));
}

TEST_CASE_FIXTURE(Fixture, "copies of the base are accepted if they are copies") {
  CAPTURE(seed);
  AdapterFolder folder(seed);
  folder.add_change("language_model.lm_head", 513, 24);
  const auto tensors = saved_tensors(*base.random.model);
  SavedTensor& copied = folder.add("language_model.lm_head.base_layer.weight", {513, 24});
  copied.values = std::ranges::find(tensors, "language_model.lm_head.weight", &SavedTensor::name)->values;
  SUBCASE("the same numbers") {
    adapters.add(loaded, folder.write(), ctx);
    CHECK_FALSE(same(now(), before));
  }
  SUBCASE("other numbers") {
    copied.values[5000] += 1e-6F;
    CHECK(failure<config_error>(folder) ==
          "adapter_model.safetensors: base_model.model.language_model.lm_head.base_layer.weight: expected the numbers of the base, "
          "found others: the adapter was made for another base");
  }
  SUBCASE("not a number") {
    copied.values[5000] = NAN;
    CHECK(failure<config_error>(folder).ends_with("the adapter was made for another base"));
  }
  SUBCASE("rounded to bfloat16") {
    folder.write();
    std::vector<std::uint16_t> rounded;
    for (const float value : copied.values) {
      const auto bits = std::bit_cast<std::uint32_t>(value);
      rounded.push_back(static_cast<std::uint16_t>((bits + 0x7fffU + (bits >> 16U & 1U)) >> 16U));
    }
    const auto write = [&] {
      std::vector<FileTensor> files;
      for (std::size_t i = 0; i < 2; ++i) {
        const SavedTensor& tensor = folder.tensors[i];
        files.push_back({tensor.name, Dtype::F32, tensor.shape, std::as_bytes(std::span(tensor.values))});
      }
      files.push_back({copied.name, Dtype::BF16, copied.shape, std::as_bytes(std::span(rounded))});
      write_safetensors(folder / "adapter_model.safetensors", files);
    };
    write();
    adapters.add(loaded, folder.path(), ctx);
    CHECK(adapters.size() == 1);
    rounded[5000] = static_cast<std::uint16_t>(rounded[5000] + 2);
    write();
    CHECK_THROWS_AS(adapters.add(loaded, folder.path(), ctx), config_error);
  }
}

TEST_CASE_FIXTURE(Fixture, "what does not fit the model is refused, and the model stays as it is") {
  CAPTURE(seed);
  AdapterFolder folder(seed);
  folder.add_change(q_proj, 24, 24);
  SUBCASE("a module that is not there") {
    folder.add_change("language_model.model.layers.5.self_attn.q_proj", 24, 24);
    CHECK(failure<shape_error>(folder) ==
          "adapter_model.safetensors: expected only tensors for modules of the model that take changes, found 2 others: "
          "base_model.model.language_model.model.layers.5.self_attn.q_proj.lora_A.weight, "
          "base_model.model.language_model.model.layers.5.self_attn.q_proj.lora_B.weight");
  }
  SUBCASE("a module that takes no changes") {
    folder.add_change("vision_model.patch_embedding", 12, 588);
    CHECK(failure<shape_error>(folder).find("found 2 others: base_model.model.vision_model.patch_embedding") != std::string::npos);
  }
  SUBCASE("a module without weights, as those of the vision part in a save of the text model alone") {
    loaded.model->multi_modal_projector.weight.weights = {};
    folder.add_change("multi_modal_projector", 24, 36);
    CHECK(message<shape_error>([&] {
            adapters.add(loaded, folder.write(), ctx);
          }).find("found 2 others: base_model.model.multi_modal") != std::string::npos);
  }
  SUBCASE("sizes of another model") {
    folder.add_change(up_proj, 44, 24);
    CHECK(failure<shape_error>(folder) ==
          concat("adapter_model.safetensors: base_model.model.", up_proj, ".lora_B.weight: expected [40, 3], found F32 [44, 3]"));
  }
  SUBCASE("a replacement of another size or type") {
    folder.configure(R"("modules_to_save": ["norm"])");
    folder.add("language_model.model.norm.weight", {25});
    CHECK(failure<shape_error>(folder).ends_with("norm.weight: expected [24], found F32 [25]"));
    folder.tensors.pop_back();
    folder.write();
    const std::vector<std::int32_t> integers(24);
    const std::vector<FileTensor> tensors{
        {"language_model.model.norm.weight", Dtype::I32, {24}, std::as_bytes(std::span(integers))}};
    write_safetensors(folder / "adapter_model.safetensors", tensors);
    CHECK(message<shape_error>([&] { adapters.add(loaded, folder.path(), ctx); }) ==
          folder /
              "adapter_model.safetensors: language_model.model.norm.weight: expected an element type that the model type takes "
              "here, found I32");
  }
  SUBCASE("another model than before") {
    adapters.add(loaded, folder.write(), ctx);
    auto other = random_weights<AdaptedTiny>(seed);
    CHECK(message<input_error>([&] { adapters.add(other, folder.path(), ctx); }) ==
          folder.path() + ": expected the model of the adapters added before, found another");
  }
  SUBCASE("a strength that is no number") {
    CHECK(failure<input_error>(folder, NAN) == "scale: expected a finite number, found nan");
  }
}

namespace {
struct CrossOnlyText : TinyText {
  using cross_weights = LoRA<F32>;
};
struct CrossOnly : Mllama<TinyVision, CrossOnlyText> {};
}  // namespace

TEST_CASE_FIXTURE(Fixture, "a model that is adapted in part takes adapters for that part") {
  CAPTURE(seed);
  const auto partly = load_weights<CrossOnly>(base.path());
  AdapterFolder folder(seed);
  folder.add_change("language_model.model.layers.1.cross_attn.v_proj", 12, 24);
  adapters.add(partly, folder.write(), ctx);
  CHECK(difference(logits(*partly.model), before) > 1e-4);
  folder.add_change(q_proj, 24, 24);
  CHECK(message<shape_error>([&] {
          adapters.add(partly, folder.write(), ctx);
        }).find("found 2 others: base_model.model." + q_proj) != std::string::npos);
}

TEST_CASE_FIXTURE(Fixture, "added to what load gave, in three lines") {
  CAPTURE(seed);
  AdapterFolder folder(seed);
  folder.add_change(q_proj, 24, 24);
  folder.write();

  const auto model = load<AdaptedTiny>(base.path());
  Adapters some;
  some.add(model, folder.path(), ctx, 0.5);

  adapters.add(*loaded.model, folder.path(), ctx, 0.5);
  CHECK(same(logits(model.model()), now()));
  CHECK_FALSE(same(now(), before));
}

namespace {
struct OneLinear {
  Linear<LoRA<NF4>, 48, 40> up_proj{};
  static constexpr void visit(auto& self, auto&& member) { member("up_proj", self.up_proj); }
};
}  // namespace

TEST_CASE("magnitudes of quantised matrices are lengths of their decoded rows") {
  CAPTURE(seed);
  const auto random = random_weights<Linear<LoRA<NF4>, 48, 40>>(seed);
  OneLinear holder{*random.model};
  AdapterFolder folder(seed, R"("use_dora": true)");
  folder.add_change("up_proj", 40, 48);
  folder.add("up_proj.lora_magnitude_vector", {40});
  Context ctx(2);
  Adapters adapters;
  adapters.add(holder, folder.write(), ctx);
  const auto x = random_rows<Rows, 48>(3, seed);

  std::vector<float> weights(40 * 48), expected;
  holder.up_proj.weight.weights.decode(0, weights);
  AdapterFile file(folder.path());
  merge(std::array{ScaledLowRank{*file.linear("up_proj", 40, 48)}}, 0, {weights.data(), 40, 48, 48});
  Linear<F32, 48, 40> merged;
  merged.weight.weights = {weights.data(), 40, 48};
  CHECK(difference(holder.up_proj(x, ctx).flat(), merged(x, ctx).flat()) < merged_tolerance);
}
