// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <mllama/generate/pretrained.hpp>
#include <mllama/generate/session.hpp>
#include <mllama/generate/synthesize.hpp>
#include <string>
#include <unit/io/temporary_folder.hpp>
#include <unit/models/tiny.hpp>
#include <vector>

using namespace mllama;
using mllama_test::message;
using mllama_test::TemporaryFolder;

namespace {

struct StoredVision : mllama_test::TinyVision {
  using weights = Stored;
  static constexpr int hidden = 32, inner = 72, heads = 2;
};
struct StoredText : mllama_test::TinyText {
  using weights = Stored;
  using head_weights = StoredHead;
  static constexpr int hidden = 48, inner = 88;  // blocks span rows, and the last is a short one
};
struct Small : Mllama<StoredVision, StoredText> {
  static constexpr std::string_view name = "small";
};
/// A vocabulary that has no room for a tokenizer.
struct LettersText : StoredText {
  static constexpr int vocab = 99, image_token = 99, pad_token = 120;
};
struct Letters : Mllama<StoredVision, LettersText> {
  static constexpr std::string_view name = "letters";
};

constexpr auto ignore = [](std::size_t, std::size_t) {};

template <class Model = Small>
SynthesisReport write(const std::string& path, const SynthesisSettings& settings) {
  return synthesize<Model>(path, sizes_of<Model>(), settings, ignore);
}

struct Row {
  SynthesisSettings settings;
  std::uint64_t hash;  ///< FNV-1a of model.safetensors, the same from GCC and Clang, with and without fused operations
};
const Row rows[] = {
    {{.storage = LinearStorage::nf4}, 14259788107738247319U},
    {{.storage = LinearStorage::nf4, .nested = false, .seed = 1}, 7642749787344057882U},
    {{.storage = LinearStorage::fp4, .seed = 2}, 18365107965832425561U},
    {{.storage = LinearStorage::fp4, .nested = false}, 9831284900707069839U},
    {{.storage = LinearStorage::int8}, 4166784633189292429U},
    {{.storage = LinearStorage::bf16}, 9029640582462952439U},
};

double root_mean_square(std::span<const float> values) {
  double sum = 0;
  for (const float value : values) sum += double{value} * double{value};
  return std::sqrt(sum / static_cast<double>(values.size()));
}

}  // namespace

TEST_CASE("the same bytes on every machine, with any number of threads") {
  for (Row row : rows) {
    CAPTURE(static_cast<int>(row.settings.storage));
    const TemporaryFolder folder;
    std::string file;
    for (const unsigned threads : {1U, 5U}) {
      row.settings.threads = threads;
      std::filesystem::remove_all(folder / "out");
      write(folder / "out", row.settings);
      const std::string again = folder.read("out/model.safetensors");
      if (threads == 1) file = again;
      CHECK(again == file);
    }
    std::uint64_t hash = 0xcbf29ce484222325U;
    for (const char c : file) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3U;
    CHECK(hash == row.hash);
    row.settings.seed += 10;
    write(folder / "other", row.settings);
    CHECK(folder.read("other/model.safetensors") != file);
  }
}

TEST_CASE("the folder is one of the model type, with everything for a conversation") {
  for (const auto& [settings, hash] : rows) {
    CAPTURE(static_cast<int>(settings.storage));
    CAPTURE(settings.nested);
    const TemporaryFolder folder;
    const SynthesisReport report = write(folder / "out", settings);
    CHECK(report.has_tokenizer);
    CHECK(report.rests.empty());
    const auto loaded = load<Small>(folder / "out");
    CHECK(loaded.weights.files.mapped_bytes() == report.bytes);
    CHECK(loaded.sizes.quantization.four_bit == (settings.storage == LinearStorage::nf4 || settings.storage == LinearStorage::fp4));
    CHECK(loaded.sizes.quantization.eight_bit == (settings.storage == LinearStorage::int8));
    CHECK(loaded.sizes.text.bos == 497);
    CHECK(loaded.generation.eos == std::vector<std::int32_t>{498, 505, 506});
    REQUIRE(loaded.tokenizer);
    CHECK(loaded.tokenizer->token_id("<|image|>") == Small::Text::image_token);
    REQUIRE(loaded.processor);
    CHECK(loaded.chat_template == ChatTemplate::plain);

    // Linears are stored as asked for, everything else is not quantised, and outputs are as large as inputs.
    for_each_parameter(loaded.model(), [&](const std::string& name, const auto& parameter) {
      using P = std::remove_cvref_t<decltype(parameter)>;
      CAPTURE(name);
      std::vector<float> values(P::size);
      parameter.weights.decode(0, values);
      const bool is_linear = P::shape.size() == 2 && name.find("embed") == name.npos && name != "language_model.lm_head.weight";
      const auto format = with_format(parameter.weights, []<class F>(const Weights<F>&) { return F::name; });
      const bool is_float = format == BF16::name || format == F32::name;
      CHECK(is_float == (!is_linear || settings.storage == LinearStorage::bf16));
      CHECK(std::ranges::any_of(values, [](float value) { return value != 0; }));
      if (name.ends_with("q_proj.weight") || name.ends_with("up_proj.weight") || name.ends_with("fc1.weight")) {
        CHECK(root_mean_square(values) * std::sqrt(static_cast<double>(P::shape[1])) == doctest::Approx(1).epsilon(0.15));
      }
      if (name.ends_with("norm.weight")) CHECK(root_mean_square(values) == doctest::Approx(1).epsilon(0.1));
      if (name.find("gate") != name.npos && P::size == 1) CHECK(std::abs(std::abs(values[0]) - 0.5) <= 0.25);
    });
  }
}

TEST_CASE("logits are neither alike nor certain, and depend on text before and on pictures") {
  for (const auto& [settings, hash] : rows) {
    CAPTURE(static_cast<int>(settings.storage));
    const TemporaryFolder folder;
    write(folder / "out", settings);
    const auto loaded = load<Small>(folder / "out");
    Context ctx(1);
    const auto logits = [&](std::int32_t first, std::uint32_t picture_seed) {
      Image image(40, 30);
      for (std::size_t i = 0; i < image.pixels.size(); ++i) {
        image.pixels[i] = static_cast<std::uint8_t>(detail::NumberedWords("pixels", picture_seed)[i]);
      }
      const auto picture = loaded.encode(image, ctx);
      Session session(loaded.model(), ctx);
      const std::vector<std::int32_t> ids{497, first, Small::Text::image_token, 300, 17, 402, 9};
      const auto last = session.append(ids, {&picture, 1});
      return std::vector<float>(last.begin(), last.end());
    };
    const auto once = logits(5, 1), other_text = logits(6, 1), other_picture = logits(5, 2);
    double sum = 0, entropy = 0;
    for (const float logit : once) sum += std::exp(double{logit});
    for (const float logit : once) entropy -= std::exp(double{logit}) / sum * (double{logit} - std::log(sum));
    const double most = std::log(static_cast<double>(once.size()));
    CAPTURE(entropy);
    CHECK(std::isfinite(entropy));
    CHECK(entropy > 0.25 * most);
    CHECK(entropy < 0.9 * most);
    const auto difference = [&](const std::vector<float>& other) {
      double square = 0;
      for (std::size_t i = 0; i < once.size(); ++i) square += std::pow(double{once[i]} - double{other[i]}, 2);
      return std::sqrt(square / static_cast<double>(once.size())) / root_mean_square(once);
    };
    CHECK(difference(other_text) > 0.02);
    CHECK(difference(other_text) < 1.2);
    CHECK(difference(other_picture) > 0.02);
    CHECK(difference(other_picture) < 1.2);
  }
}

TEST_CASE("a vocabulary without room for a tokenizer") {
  const TemporaryFolder folder;
  CHECK_FALSE(write<Letters>(folder / "out", {}).has_tokenizer);
  const auto loaded = load<Letters>(folder / "out");
  CHECK_FALSE(loaded.tokenizer);
  CHECK_FALSE(loaded.generation.pad);
}

TEST_CASE("progress is told, and ends with all bytes") {
  const TemporaryFolder folder;
  std::size_t before = 0, all = 0;
  const SynthesisReport report =
      synthesize<Small>(folder / "out", sizes_of<Small>(), {.threads = 1}, [&](std::size_t done, std::size_t total) {
        CHECK(done > before);
        before = done;
        all = total;
      });
  CHECK(before == report.bytes);
  CHECK(all == report.bytes);
  CHECK(report.tensors == Safetensors(folder / "out/model.safetensors").tensors().size());
}

TEST_CASE("what cannot be written is said before anything is there") {
  const TemporaryFolder folder;
  ModelSizes text_only = sizes_of<Small>();
  text_only.vision.reset();
  CHECK(message<config_error>([&] { synthesize<Small>(folder / "out", text_only, {}, ignore); }) ==
        "small: vision_config: expected an object, found nothing");
  folder.write("out", "a file");
  CHECK(message<file_error>([&] { write(folder / "out", {}); }).find("found a file") != std::string::npos);
  CHECK(folder.files() == 1);
}
