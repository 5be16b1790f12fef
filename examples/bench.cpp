// SPDX-License-Identifier: MIT
// bench: how fast a model runs here, stage by stage, and how near to what the machine can do.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <CLI/CLI.hpp>

#include <mllama/core/context.hpp>
#include <mllama/core/visit.hpp>
#include <mllama/generate/pretrained.hpp>
#include <mllama/models/mllama/cache.hpp>

#include "models.hpp"
#include "support/command_line.hpp"
#include "support/measurements.hpp"
#include "support/probes.hpp"
#include "support/terminal.hpp"

namespace {

using mllama::concat;
using support::Measurement;
using support::Timing;

constexpr std::array<std::string_view, 8> stages{"load", "img", "tok", "enc", "xkv", "pp", "tg", "mm"};

struct Arguments {
  std::vector<std::string> stages;
  std::string model = MLLAMA_POCKET "/model-nf4", output = "md";
  std::vector<std::string> policies{"f32", "int16", "int8"};
  std::vector<std::size_t> prompts{64, 512}, depths{0, 1024};
  double seconds = 2;
  unsigned threads = 0;

  [[nodiscard]] bool wants(std::string_view stage) const {
    return stages.empty() || std::ranges::find(stages, stage) != stages.end();
  }
  void check() const {
    for (const std::string& stage : stages) {
      mllama::check(std::ranges::find(::stages, stage) != ::stages.end(), [&] {
        return mllama::Fault{.field = "STAGE", .expected = "load, img, tok, enc, xkv, pp, tg or mm", .found = stage};
      });
    }
    for (const std::string& policy : policies) static_cast<void>(support::precision_of(policy, "--policy"));
  }
  [[nodiscard]] support::Style style() const {
    const auto known = output == "md" || output == "csv" || output == "json";
    mllama::check(known, [&] { return mllama::Fault{.field = "--output", .expected = "md, csv or json", .found = output}; });
    return output == "md" ? support::Style::md : output == "csv" ? support::Style::csv : support::Style::json;
  }
};

/// Bytes and elements of the parameters below a module.
struct Size {
  std::size_t bytes = 0, elements = 0;
};
Size size_of(const auto& module) {
  Size size;
  mllama::for_each_parameter(module, [&](const std::string&, const auto& parameter) {
    size.bytes += parameter.weights.bytes();
    size.elements += std::remove_cvref_t<decltype(parameter)>::size;
  });
  return size;
}

/// The benchmarks of one model.
template <class Model>
class Bench {
 public:
  using Vision = typename Model::Vision;
  using Text = typename Model::Text;
  using Shape = mllama::TextShape<Text>;
  using Ctx = mllama::Context<support::Backend>;

  explicit Bench(const Arguments& arguments)
      : arguments_(arguments), ctx_(arguments.threads), limits_(support::measure_limits(ctx_)) {
    const auto add_limit = [&](const char* name, double value, const char* unit) {
      if (value > 0) add({.bench = name, .policy = std::string(ctx_.body_name()), .value = value / 1e9, .unit = unit});
    };
    add_limit("read", limits_.read, "GB/s");
    add_limit("f32", limits_.floats, "GF/s");
    add_limit("int16", limits_.words, "Gop/s");
    add_limit("int8", limits_.bytes, "Gop/s");
  }

  std::vector<Measurement> run() {
    const auto load = [&] { return std::make_unique<const mllama::Pretrained<Model>>(mllama::load<Model>(arguments_.model)); };
    loaded_ = load();
    if (arguments_.wants("load")) {
      const Timing time = support::time_of(0, [&] { static_cast<void>(load()); });
      add({.bench = "load", .value = 1e3 * time.seconds, .unit = "ms", .spread = time.spread});
    }
    if (arguments_.wants("img") && loaded_->processor) images();
    if (arguments_.wants("tok") && loaded_->tokenizer) tokens();
    for (const std::string& policy : arguments_.policies) {
      ctx_.precision(support::precision_of(policy));
      policy_ = policy;
      if (model().has_vision()) {
        if (arguments_.wants("enc")) pictures();
        if (arguments_.wants("xkv")) cross_keys();
      }
      if (arguments_.wants("pp")) prompts();
      if (arguments_.wants("tg")) decode();
      if (arguments_.wants("mm")) products();
    }
    return std::move(measurements_);
  }

 private:
  const Model& model() const { return loaded_->model(); }
  static constexpr double giga = 1e9;

  void add(Measurement measurement) {
    measurement.threads = ctx_.threads().size();
    if (measurement.policy.empty() && !policy_.empty()) measurement.policy = concat(policy_, ' ', ctx_.body_name());
    measurements_.push_back(std::move(measurement));
  }
  /// Of the peak of the arithmetic in use; none where the processor has no bodies for it.
  [[nodiscard]] std::optional<double> of_peak(double operations, double seconds) const {
    const double peak = limits_.operations(ctx_.precision());
    return peak > 0 ? std::optional(operations / seconds / peak) : std::nullopt;
  }
  Timing time(auto&& run) const { return support::time_of(arguments_.seconds, run); }

  /// A photo of 12 megapixels: resized, padded, normalised and cut into tiles.
  void images() {
    mllama::Image photo(4000, 3000);
    std::mt19937 random(1);
    for (auto& level : photo.pixels) level = static_cast<std::uint8_t>(random());
    const Timing t = time([&] { static_cast<void>(loaded_->processor->tiles(photo)); });
    add({.bench = "img 4000x3000", .value = 1e3 * t.seconds, .unit = "ms", .spread = t.spread});
  }

  void tokens() {
    constexpr std::array<std::string_view, 12> words{"the ",  "picture ", "shows ", "two ",  "people, ", "who ",
                                                     "walk ", "along ",   "a ",     "river", ". ",       "In 2024 "};
    std::string text;
    for (std::mt19937 random(1); text.size() < 1'000'000;) text += words[random() % words.size()];
    const Timing t = time([&] { static_cast<void>(loaded_->tokenizer->encode(text)); });
    add({.bench = "tok 1 MB", .value = static_cast<double>(text.size()) / 1e6 / t.seconds, .unit = "MB/s", .spread = t.spread});
  }

  /// The vision model and the projector, for a picture of all tiles.
  void pictures() {
    using VShape = mllama::VisionShape<Vision>;
    typename PixelTensor::Lengths none{};
    PixelTensor pixels(none);
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    for (float& pixel : pixels.flat()) pixel = normal(random);
    mllama::PictureTiles<Vision> tiles{.pixels = pixels, .aspect_ratio_id = Vision::aspect_ratios.size(), .real_tiles = {}};
    tiles.real_tiles.fill(true);
    const Timing t = time([&] { static_cast<void>(model().cross_attention_states(tiles, Model::numerics, ctx_)); });
    const double rows = Vision::tiles * VShape::padded, layers = Vision::layers + Vision::global_layers;
    const double products = 2 * rows * static_cast<double>(size_of(model().vision_model).elements) +
                            2 * static_cast<double>(size_of(model().multi_modal_projector).elements) * VShape::image_tokens;
    const double attention = 4 * rows * rows * Vision::hidden * layers;
    add({.bench = concat("enc ", Vision::tiles, " tiles"),
         .value = t.seconds,
         .unit = "s",
         .share = of_peak(products + attention, t.seconds),
         .limit = policy_,
         .spread = t.spread});
  }
  using PixelTensor = mllama::Tensor<float, mllama::Dim<Vision::tiles>, mllama::Dim<Vision::channels>, mllama::Dim<Vision::image>,
                                     mllama::Dim<Vision::image>>;

  /// Keys and values of every cross-attention layer for a picture.
  void cross_keys() {
    constexpr std::size_t rows = mllama::VisionShape<Vision>::image_tokens;
    using States = mllama::Tensor<float, mllama::ImageTokens, mllama::Dim<Text::hidden>>;
    using Keys = mllama::Tensor<float, mllama::ImageTokens, mllama::Dim<Shape::kv_width>>;
    States states({rows});
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    for (float& state : states.flat()) state = normal(random);
    Keys keys({rows}), values({rows});
    const auto& layers = model().language_model.model.layers.cross;
    const Timing t = time([&] {
      for (const auto& layer : layers) layer.cross_attn.encode(states, keys, values, ctx_);
    });
    const double flops = 4.0 * Text::hidden * Shape::kv_width * rows * static_cast<double>(layers.size());
    add({.bench = "xkv",
         .value = t.seconds,
         .unit = "s",
         .share = of_peak(flops, t.seconds),
         .limit = policy_,
         .spread = t.spread});
  }

  /// Runs `count` tokens behind `depth` positions that are already in the cache.
  void forward(std::size_t count, std::size_t depth) {
    ids_.clear();
    positions_.clear();
    for (std::size_t i = 0; i < count; ++i) {
      ids_.push_back(static_cast<std::int32_t>((i * 7919 + depth) % static_cast<std::size_t>(Text::vocab)));
      positions_.push_back(static_cast<std::int32_t>(depth + i));
    }
    const mllama::TextSequence<Text> sequence{.rows = count, .cache = &cache_};
    const auto states = model().forward({ids_, positions_, {&sequence, 1}}, Model::numerics, ctx_);
    static_cast<void>(model().language_model.logits(states.view().slice(count - 1, 1), ctx_));
    cache_.truncate(depth);
  }
  [[nodiscard]] Size self_layers() const {
    Size size;
    for (const auto& layer : model().language_model.model.layers.self) {
      const Size one = size_of(layer);
      size.bytes += one.bytes;
      size.elements += one.elements;
    }
    return size;
  }

  void prompts() {
    const double weights = static_cast<double>(self_layers().elements), head = Text::hidden * static_cast<double>(Text::vocab);
    for (const std::size_t length : arguments_.prompts) {
      cache_.truncate(0);
      const Timing t = time([&] { forward(length, 0); });
      const double n = static_cast<double>(length);
      const double attention = 2 * n * (n + 1) * Text::hidden * static_cast<double>(Shape::self_layers);
      add({.bench = concat("pp ", length),
           .value = n / t.seconds,
           .unit = "tokens/s",
           .share = of_peak(2 * n * weights + 2 * head + attention, t.seconds),
           .limit = policy_,
           .spread = t.spread});
    }
  }

  void decode() {
    const double weights = static_cast<double>(self_layers().bytes + size_of(model().language_model.lm_head).bytes);
    for (const std::size_t depth : arguments_.depths) {
      fill(depth);
      const Timing t = time([&] { forward(1, depth); });
      const double cached = 2.0 * sizeof(float) * Shape::kv_width * static_cast<double>(Shape::self_layers * depth);
      add({.bench = concat("tg at ", depth),
           .value = 1 / t.seconds,
           .unit = "tokens/s",
           .share = (weights + cached) / t.seconds / limits_.read,
           .limit = "read",
           .spread = t.spread});
    }
  }
  /// Positions that no prompt was computed for: their keys and values are random.
  void fill(std::size_t depth) {
    cache_.truncate(0);
    cache_.reserve(depth + 1);
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    for (std::size_t layer = 0; layer < Shape::self_layers; ++layer) {
      for (std::size_t i = 0; i < depth * Shape::kv_width; ++i) {
        cache_.keys(layer)[i] = normal(random);
        cache_.values(layer)[i] = normal(random);
      }
    }
    cache_.advance(depth);
  }

  /// The largest matrix of the first text layer, alone, for a few numbers of rows.
  void products() {
    const auto& weight = model().language_model.model.layers.self[0].mlp.up_proj.weight.weights;
    for (const std::size_t rows : {std::size_t{1}, std::size_t{4}, std::size_t{512}}) {
      constexpr std::size_t in = Text::hidden, out = Text::inner;
      std::vector<float> x(rows * in), y(rows * out);
      std::mt19937 random(1);
      std::normal_distribution<float> normal;
      for (float& number : x) number = normal(random);
      const Timing t = time([&] {
        mllama::kernels::matmul(ctx_, mllama::Matrix<const float>{x.data(), rows, in, in}, weight, {},
                                mllama::Matrix<float>{y.data(), rows, out, out});
      });
      const double flops = 2.0 * in * out * static_cast<double>(rows);
      const double read = static_cast<double>(weight.bytes()) / t.seconds / limits_.read;
      const std::optional<double> peak = of_peak(flops, t.seconds);
      const bool reads = rows == 1 || !peak || read > *peak;
      add({.bench = concat("mm ", rows, "x", in, "x", out),
           .value = flops / t.seconds / giga,
           .unit = "GF/s",
           .share = reads ? read : peak,
           .limit = reads ? "read" : policy_,
           .error = error_of(weight, x, y, rows),
           .spread = t.spread});
    }
  }
  template <class F>
  static double error_of(const mllama::Weights<F>& weights, const std::vector<float>& x, const std::vector<float>& y,
                         std::size_t rows) {
    constexpr std::size_t in = Text::hidden, out = Text::inner, step = out / 16 == 0 ? 1 : out / 16;
    std::vector<float> decoded(in);
    double square = 0, error = 0;
    for (std::size_t o = 0; o < out; o += step) {
      mllama::with_format(weights, [&](const auto& w) { w.decode(o * in, decoded); });
      for (std::size_t r = 0; r < rows; r += 1 + rows / 8) {
        double exact = 0;
        for (std::size_t i = 0; i < in; ++i) exact += double{x[r * in + i]} * double{decoded[i]};
        error += (exact - double{y[r * out + o]}) * (exact - double{y[r * out + o]});
        square += exact * exact;
      }
    }
    return std::sqrt(error / square);
  }

  const Arguments& arguments_;
  Ctx ctx_;
  support::Limits limits_;
  std::unique_ptr<const mllama::Pretrained<Model>> loaded_;
  std::string policy_;
  std::vector<Measurement> measurements_;
  mllama::KeyValueCache<Text> cache_;
  std::vector<std::int32_t> ids_, positions_;
};

void run(const Arguments& arguments) {
  arguments.check();
  const support::Style style = arguments.style();
  using Choices = mllama::JoinModels<mllama::models::ModelList, mllama::ReleasedModels>;
  mllama::with_model_of(arguments.model, Choices{}, [&]<class Model>(std::type_identity<Model>) {
    const std::string table = support::table_of(Bench<Model>(arguments).run(), style);
    if (std::fputs(table.c_str(), stdout) < 0 || std::fflush(stdout) != 0)
      throw mllama::file_error("standard output: cannot write");
  });
}

}  // namespace

int main(int argc, char** argv) {
  Arguments arguments;
  CLI::App app("Measures how fast a model runs here, and the share of what the machine can do.", "bench");
  app.add_option(
         "STAGE", arguments.stages,
         "load, img (a photo of 12 megapixels to tiles), tok (a megabyte of text), enc (vision model), xkv (keys and values of a "
         "picture), pp (prompts), tg (tokens one by one), mm (one matrix product); default: all")
      ->type_name("");
  app.add_option("--model", arguments.model, "folder as Hugging Face saves it; default: the small one that comes along");
  app.add_option("--policy", arguments.policies, "f32, int16, int8; default: all three")->delimiter(',');
  app.add_option("--prompt", arguments.prompts, "lengths of prompts; default: 64,512")
      ->delimiter(',')
      ->check(CLI::Range(1, 131072));
  app.add_option("--depth", arguments.depths, "positions in the cache before a token; default: 0,1024")
      ->delimiter(',')
      ->check(CLI::Range(0, 131072));
  app.add_option("--threads", arguments.threads, "0: all");
  app.add_option("--seconds", arguments.seconds, "to spend on each line at least, if three runs take less; default: 2")
      ->check(CLI::Range(0.0, 3600.0));
  app.add_option("-o,--output", arguments.output, "md, csv or json");
  return support::run(app, argc, argv, [&] { run(arguments); });
}
