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
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <CLI/CLI.hpp>

#include <mllama/core/context.hpp>
#include <mllama/core/visit.hpp>
#include <mllama/generate/pretrained.hpp>
#include <mllama/io/output_file.hpp>
#include <mllama/models/mllama/cache.hpp>

#include "models.hpp"
#include "support/command_line.hpp"
#include "support/kernel_benchmarks.hpp"
#include "support/measurements.hpp"
#include "support/probes.hpp"
#include "support/roofline.hpp"
#include "support/terminal.hpp"
#include "support/trace.hpp"

namespace {

using mllama::concat;
using support::Measurement;
using support::Timing;

constexpr std::array<std::string_view, 14> stages{"load", "img",  "tok",  "enc",  "xkv",     "pp",  "tg",
                                                  "mm",   "attn", "norm", "rope", "softmax", "act", "embed"};

struct Arguments {
  std::vector<std::string> stages;
  std::string model = MLLAMA_POCKET "/model-nf4", output = "md", kv = "f32";
  std::vector<std::string> policies{"f32", "int16", "bf16", "int8"};
  std::vector<std::size_t> prompts{64, 512}, depths{0, 1024}, tiles;
  std::string plot, trace;  ///< files
  double seconds = 2;
  unsigned threads = 0;

  [[nodiscard]] bool wants(std::string_view stage) const {
    return stages.empty() || std::ranges::find(stages, stage) != stages.end();
  }
  void check() const {
    for (const std::string& stage : stages) {
      mllama::check(std::ranges::find(::stages, stage) != ::stages.end(), [&] {
        return mllama::Fault{.field = "STAGE",
                             .expected = "load, img, tok, enc, xkv, pp, tg, mm, attn, norm, rope, softmax, act or embed",
                             .found = stage};
      });
    }
    for (const std::string& policy : policies) static_cast<void>(support::precision_of(policy, "--policy"));
    static_cast<void>(support::key_format_of(kv));
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
  using Ctx = mllama::Context<support::Backend, support::Trace>;

  explicit Bench(const Arguments& arguments)
      : arguments_(arguments),
        ctx_(arguments.threads),
        limits_(support::measure_limits(ctx_)),
        kernels_(ctx_, limits_, arguments.seconds) {
    const auto add_limit = [&](const char* name, double value, const char* unit) {
      if (value > 0) add({.bench = name, .policy = std::string(ctx_.body_name()), .value = value / 1e9, .unit = unit});
    };
    add_limit("read", limits_.read, "GB/s");
    add_limit("f32", limits_.floats, "GF/s");
    add_limit("int16", limits_.words, "Gop/s");
    add_limit("bf16", limits_.bfloats == limits_.floats ? 0 : limits_.bfloats, "GF/s");
    add_limit("int8", limits_.bytes, "Gop/s");
  }

  std::vector<Measurement> run() {
    const auto load = [&] { return std::make_unique<const mllama::Pretrained<Model>>(mllama::load<Model>(arguments_.model)); };
    loaded_ = load();
    cache_ = mllama::KeyValueCache<Text>(support::key_format_of(arguments_.kv));
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
      if (arguments_.wants("attn")) attention(policy == arguments_.policies.front());
    }
    policy_.clear();
    ctx_.precision(mllama::Precision::f32);
    kernels();
    return measurements_;
  }

  /// What the measurements are, over what the machine can do.
  [[nodiscard]] std::string roofline() {
    return support::roofline_of(measurements_, limits_,
                                concat(Model::name, ", ", ctx_.threads().size(), " threads, ", ctx_.body_name()));
  }

  /// A prompt and some tokens, in the first of the policies.
  [[nodiscard]] std::string trace() {
    constexpr std::size_t steps = 3;
    const std::size_t length = arguments_.prompts.front();
    ctx_.precision(support::precision_of(arguments_.policies.front()));
    cache_.truncate(0);
    cache_.reserve(length + steps);
    forward(length, 0);
    support::Trace& trace = ctx_.observer();
    trace.start(ctx_.threads().size(), static_cast<std::size_t>(Text::layers));
    for (std::size_t step = 0; step <= steps; ++step) {
      const std::size_t count = step == 0 ? length : 1;
      trace.begin(step == 0 ? concat("prompt of ", length) : concat("token ", step));
      forward(count, cache_.length());
      trace.end();
      cache_.advance(count);  // which `forward` has taken away
    }
    trace.stop();
    return trace.json();
  }

 private:
  const Model& model() const { return loaded_->model(); }

  void add(Measurement measurement) {
    if (measurement.threads == 0) measurement.threads = ctx_.threads().size();
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
    add({.bench = "img 4000x3000", .threads = 1, .value = 1e3 * t.seconds, .unit = "ms", .spread = t.spread});
  }

  void tokens() {
    constexpr std::array<std::string_view, 12> words{"the ",  "picture ", "shows ", "two ",  "people, ", "who ",
                                                     "walk ", "along ",   "a ",     "river", ". ",       "In 2024 "};
    std::string text;
    for (std::mt19937 random(1); text.size() < 1'000'000;) text += words[random() % words.size()];
    const Timing t = time([&] { static_cast<void>(loaded_->tokenizer->encode(text)); });
    add({.bench = "tok 1 MB",
         .threads = 1,
         .value = static_cast<double>(text.size()) / 1e6 / t.seconds,
         .unit = "MB/s",
         .spread = t.spread});
  }

  /// The vision model and the projector, for pictures of one to all tiles. All tiles are computed at full length, whatever they hold.
  void pictures() {
    using VShape = mllama::VisionShape<Vision>;
    typename PixelTensor::Lengths none{};
    PixelTensor pixels(none);
    std::ranges::copy(support::normals(pixels.size()), pixels.data());
    const double rows = Vision::tiles * VShape::padded, layers = Vision::layers + Vision::global_layers;
    const Size vision = size_of(model().vision_model), projector = size_of(model().multi_modal_projector);
    const double products =
        2 * rows * static_cast<double>(vision.elements) + 2 * static_cast<double>(projector.elements) * VShape::image_tokens;
    const double attention = 4 * rows * rows * Vision::hidden * layers;
    for (std::size_t count = 1; count <= Vision::tiles; ++count) {
      const auto grid =
          std::ranges::find(Vision::aspect_ratios, static_cast<int>(count), [](const auto& g) { return g.rows * g.columns; });
      const bool wanted = arguments_.tiles.empty() || std::ranges::find(arguments_.tiles, count) != arguments_.tiles.end();
      if (grid == Vision::aspect_ratios.end() || !wanted) continue;
      const auto id = static_cast<std::size_t>(grid - Vision::aspect_ratios.begin()) + 1;
      mllama::PictureTiles<Vision> tiles{.pixels = pixels, .aspect_ratio_id = id, .real_tiles = {}};
      std::fill_n(tiles.real_tiles.begin(), count, true);
      const Timing t = time([&] { static_cast<void>(model().cross_attention_states(tiles, Model::numerics, ctx_)); });
      add({.bench = concat("enc ", count, count == 1 ? " tile" : " tiles"),
           .value = t.seconds,
           .unit = "s",
           .share = of_peak(products + attention, t.seconds),
           .limit = policy_,
           .spread = t.spread,
           .operations = (products + attention) / t.seconds,
           .bytes = static_cast<double>(vision.bytes + projector.bytes) / t.seconds});
    }
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
         .spread = t.spread,
         .operations = flops / t.seconds,
         .bytes = static_cast<double>(sizeof(float) * (states.size() + 2 * layers.size() * keys.size())) / t.seconds});
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
    const Size layers = self_layers();
    const double weights = static_cast<double>(layers.elements), head = Text::hidden * static_cast<double>(Text::vocab);
    const double bytes = static_cast<double>(layers.bytes + size_of(model().language_model.lm_head).bytes);
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
           .spread = t.spread,
           .operations = (2 * n * weights + 2 * head + attention) / t.seconds,
           .bytes = bytes / t.seconds});
    }
  }

  void decode() {
    const Size layers = self_layers(), head = size_of(model().language_model.lm_head);
    const double weights = static_cast<double>(layers.bytes + head.bytes);
    for (const std::size_t depth : arguments_.depths) {
      fill(depth);
      const Timing t = time([&] { forward(1, depth); });
      const double cached =
          depth == 0 ? 0
                     : static_cast<double>(cache_.bytes()) * static_cast<double>(depth) / static_cast<double>(cache_.capacity());
      add({.bench = concat("tg at ", depth),
           .value = 1 / t.seconds,
           .unit = "tokens/s",
           .share = (weights + cached) / t.seconds / limits_.read,
           .limit = "read",
           .spread = t.spread,
           .operations = (2 * static_cast<double>(layers.elements + head.elements) +
                          4.0 * Text::hidden * static_cast<double>(Shape::self_layers * (depth + 1))) /
                         t.seconds,
           .bytes = (weights + cached) / t.seconds});
    }
  }
  /// Positions that no prompt was computed for: their keys and values are random.
  void fill(std::size_t depth) {
    cache_.truncate(0);
    cache_.reserve(depth + 1);
    const std::vector<float> numbers = support::normals(std::size_t{1} << 20U);  // and again from the beginning
    for (std::size_t layer = 0; layer < Shape::self_layers; ++layer) {
      for (mllama::kernels::KeptKeys* const to : {&cache_.keys(layer), &cache_.values(layer)}) {
        const std::size_t some = numbers.size() / Shape::kv_width;
        for (std::size_t done = 0; done < depth; done += some)
          to->write(Shape::keys, done, std::min(some, depth - done), numbers.data());
      }
    }
    cache_.advance(depth);
  }

  /// A large matrix of each format that the model's layers are stored in, for a few numbers of rows.
  void products() {
    std::set<std::string_view> seen;
    const auto measure = [&]<class F>(const std::vector<const mllama::Weights<F>*>& matrices) {
      const mllama::Weights<F>& first = *matrices.front();
      if (!first.loaded()) return;
      const auto name = mllama::with_format(first, []<class G>(const mllama::Weights<G>&) { return G::name; });
      if (!seen.insert(name).second) return;
      for (const std::size_t rows : {std::size_t{1}, std::size_t{4}, std::size_t{8}, std::size_t{512}})
        add(kernels_.product(matrices, rows));
    };
    const auto of_layers = [](const auto& layers, auto&& matrix) {
      std::vector<decltype(&matrix(layers[0]).weight.weights)> matrices;
      for (const auto& layer : layers) matrices.push_back(&matrix(layer).weight.weights);
      return matrices;
    };
    const auto& text = model().language_model;
    measure(of_layers(text.model.layers.self, [](const auto& layer) -> const auto& { return layer.mlp.up_proj; }));
    measure(of_layers(model().vision_model.transformer.layers, [](const auto& layer) -> const auto& { return layer.mlp.fc1; }));
    measure(std::vector{&model().multi_modal_projector.weight.weights});
    measure(std::vector{&text.lm_head.weight.weights});
  }

  /// That of a single row is in float32 whatever the policy: once is enough.
  void attention(bool first) {
    constexpr std::size_t positions = Vision::tiles * mllama::VisionShape<Vision>::padded;
    constexpr mllama::kernels::Heads text{Text::heads, Text::kv_heads, Shape::head_dim};
    constexpr mllama::kernels::Heads vision{Vision::heads, Vision::heads, Vision::hidden / Vision::heads};
    if (first) {
      for (const std::size_t depth : arguments_.depths) add(kernels_.attention("decode", text, 1, depth + 1, true));
      add(kernels_.attention("cross", text, 1, mllama::VisionShape<Vision>::image_tokens, false));
    }
    for (const std::size_t length : arguments_.prompts) add(kernels_.attention("prompt", text, length, length, true));
    add(kernels_.attention("vision", vision, positions, positions, false));
  }

  /// The kernels that know no policy; all compute in float32.
  void kernels() {
    constexpr std::size_t tokens = mllama::VisionShape<Vision>::image_tokens;
    const auto add_exact = [&](Measurement measurement) {
      measurement.policy = concat("f32 ", support::Backend::name);
      add(std::move(measurement));
    };
    if (arguments_.wants("norm")) {
      add_exact(kernels_.rms_norm(Text::hidden));
      add_exact(kernels_.layer_norm(Vision::hidden));
    }
    if (arguments_.wants("rope")) add_exact(kernels_.rope(Text::hidden, Shape::head_dim));
    if (arguments_.wants("softmax")) add_exact(kernels_.softmax(tokens));
    if (arguments_.wants("act")) {
      add_exact(kernels_.template activation<typename Vision::activation>(Vision::inner));
      add_exact(kernels_.template gated_activation<typename Text::activation>(Text::inner));
    }
    if (arguments_.wants("embed")) add_exact(kernels_.embedding(model().language_model.model.embed_tokens.weight.weights));
  }

  const Arguments& arguments_;
  Ctx ctx_;
  support::Limits limits_;
  support::KernelBenchmarks<Ctx> kernels_;
  std::unique_ptr<const mllama::Pretrained<Model>> loaded_;
  std::string policy_;
  std::vector<Measurement> measurements_;
  mllama::KeyValueCache<Text> cache_;
  std::vector<std::int32_t> ids_, positions_;
};

void write(const std::string& path, const std::string& text) {
  mllama::OutputFile file(path);
  file.write(std::as_bytes(std::span(text)));
  file.commit();
}

void run(const Arguments& arguments) {
  arguments.check();
  const support::Style style = arguments.style();
  using Choices = mllama::JoinModels<mllama::models::ModelList, mllama::ReleasedModels>;
  mllama::with_model_of(arguments.model, Choices{}, [&]<class Model>(std::type_identity<Model>) {
    Bench<Model> bench(arguments);
    const std::string table = support::table_of(bench.run(), style);
    if (!arguments.plot.empty()) write(arguments.plot, bench.roofline());
    if (!arguments.trace.empty()) write(arguments.trace, bench.trace());
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
         "picture), pp (prompts), tg (tokens one by one), and kernels alone: mm (products with weights), attn, norm, rope, "
         "softmax, act, "
         "embed; default: all")
      ->type_name("");
  app.add_option("--model", arguments.model, "folder as Hugging Face saves it; default: the small one that comes along");
  app.add_option("--policy", arguments.policies, "f32, int16, bf16, int8; default: all four")->delimiter(',');
  app.add_option("--kv", arguments.kv, "how keys and values are kept: f32, bf16, f16 or int8; default: f32");
  app.add_option("--prompt", arguments.prompts, "lengths of prompts; default: 64,512")
      ->delimiter(',')
      ->check(CLI::Range(1, 131072));
  app.add_option("--depth", arguments.depths, "positions in the cache before a token; default: 0,1024")
      ->delimiter(',')
      ->check(CLI::Range(0, 131072));
  app.add_option("--tiles", arguments.tiles, "of pictures to encode; default: from one to all")
      ->delimiter(',')
      ->check(CLI::Range(1, 64));
  app.add_option("--plot", arguments.plot, "also draw a roofline, SVG")->type_name("FILE");
  app.add_option("--trace", arguments.trace,
                 "also write when each thread computed what, for a prompt and three tokens; Chrome's format")
      ->type_name("FILE");
  app.add_option("--threads", arguments.threads, "0: all");
  app.add_option("--seconds", arguments.seconds, "to spend on each line at least, if three runs take less; default: 2")
      ->check(CLI::Range(0.0, 3600.0));
  app.add_option("-o,--output", arguments.output, "md, csv or json");
  return support::run(app, argc, argv, [&] { run(arguments); });
}
