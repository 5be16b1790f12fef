// SPDX-License-Identifier: MIT
// look: asks about a picture, and shows what happens inside the model while it answers.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <CLI/CLI.hpp>

#include <mllama/core/context.hpp>
#include <mllama/generate/adapters.hpp>
#include <mllama/generate/pretrained.hpp>
#include <mllama/generate/session.hpp>
#include <mllama/io/image.hpp>
#include <mllama/io/npy.hpp>
#include <mllama/io/png.hpp>
#include <mllama/models/mllama/adapted.hpp>
#include <mllama/models/mllama/models.hpp>
#include <mllama/observe/attention_maps.hpp>
#include <mllama/observe/heat_map.hpp>
#include <mllama/observe/logit_lens.hpp>
#include <mllama/observe/non_finite_finder.hpp>
#include <mllama/observe/observers.hpp>
#include <mllama/observe/record_files.hpp>
#include <mllama/observe/statistics.hpp>
#include <mllama/text/chat_template.hpp>

#include "models.hpp"
#include "support/adapters.hpp"
#include "support/arguments.hpp"
#include "support/progress.hpp"
#include "support/terminal.hpp"
#include "support/words.hpp"

namespace {

using Choices = mllama::AdaptedModels<mllama::JoinModels<mllama::models::ModelList, mllama::ReleasedModels>>;

struct Arguments {
  std::string model, picture, prompt, heat_map, word, layer = "best", head = "mean", out, profile = "meta", precision = "f32",
                                                      kv = "f32";
  std::vector<std::string> adapters, records;
  bool words = false, lens = false, statistics = false, quiet = false;
  std::size_t max_new_tokens = 64;
  unsigned threads = 0;

  [[nodiscard]] bool wants_array() const { return heat_map.ends_with(".npy"); }
  [[nodiscard]] bool wants_each_head() const { return wants_array() || head != "mean"; }

  /// Errors:  input_error for what does not go together.
  void complete() {
    const auto require = [](bool holds, std::string_view field, std::string_view expected, std::string_view found) {
      mllama::check(holds, [&] {
        return mllama::Fault{.field = std::string(field), .expected = std::string(expected), .found = std::string(found)};
      });
    };
    if (model.empty()) {
      model = support::pocket_folder() + "/model-nf4";
      if (picture.empty()) picture = support::pocket_folder() + "/pictures/shapes.png";
    }
    if (prompt.empty()) prompt = "What is in the picture?";
    require(heat_map.empty() || heat_map.ends_with(".png") || wants_array(), "--heat-map", "a name that ends in .png or .npy",
            heat_map);
    require(heat_map.empty() || !picture.empty(), "--heat-map", "an --image to lay it over", "none");
    require(records.empty() == out.empty(), records.empty() ? "--record" : "--out",
            records.empty() ? "what --out is to have" : "a file", "none");
    require(word.empty() || !words, "--word", "no --words", word);
  }
};

/// A number that an option gives.
/// Errors:  input_error that names the values there are.
std::size_t number_of(std::string_view option, const std::string& text, std::string_view others,
                      std::span<const std::size_t> values) {
  std::string all(others);
  for (const std::size_t value : values) {
    all += mllama::concat(", ", value);
    if (text == mllama::concat(value)) return value;
  }
  throw mllama::input_error(mllama::Fault{.field = std::string(option), .expected = all, .found = text});
}

/// What the attention of an answer becomes.
struct Maps {
  const std::vector<mllama::AttentionMaps::Pass>& passes;
  mllama::Canvas canvas;
  std::size_t grid = 0, class_tokens = 1;

  [[nodiscard]] mllama::PatchMap of(std::size_t pass, std::size_t layer, std::optional<std::size_t> head) const {
    const mllama::AttentionMaps::OfLayer& shown = passes[pass][layer];
    return mllama::patch_map(head ? shown.head(*head) : std::span<const float>(shown.mean()), canvas, grid, class_tokens);
  }
  /// Of the tokens of some words together.
  [[nodiscard]] mllama::PatchMap of(std::span<const support::Word> words, std::span<const std::size_t> layers,
                                    std::optional<std::size_t> head) const {
    mllama::PatchMap sum{canvas.rows * grid, canvas.columns * grid, {}};
    sum.values.resize(sum.rows * sum.columns);
    for (const support::Word& word : words) {
      for (std::size_t pass = word.first; pass < word.first + word.count; ++pass) {
        for (const std::size_t layer : layers) sum += of(pass, layer, head);
      }
    }
    return sum;
  }
};

/// Pictures side by side, with a white line between them.
mllama::Image side_by_side(std::span<const mllama::Image> pictures) {
  constexpr std::size_t gap = 4;
  mllama::Image all(pictures.size() * (pictures[0].width + gap) - gap, pictures[0].height);
  std::ranges::fill(all.pixels, std::uint8_t{255});
  for (std::size_t i = 0; i < pictures.size(); ++i) {
    for (std::size_t y = 0; y < all.height; ++y) {
      std::ranges::copy(pictures[i].row(y), all.row(y).begin() + static_cast<std::ptrdiff_t>(i * (pictures[i].width + gap) * 3));
    }
  }
  return all;
}

/// Draws the map of the words that are wanted, or writes all there is: (tokens, cross layers, heads, rows, columns).
/// Returns:  a line that says what it shows.
std::string write_heat_map(const Arguments& arguments, const mllama::Image& picture, const mllama::Fit& fit, std::size_t patch,
                           const Maps& maps, std::span<const support::Word> words) {
  mllama::check(!maps.passes.empty() && !maps.passes[0].empty(), [] {
    return mllama::Fault{.field = "--heat-map", .expected = "cross-attention layers that look at the picture", .found = "none"};
  });
  const mllama::AttentionMaps::Pass& first = maps.passes[0];
  if (arguments.wants_array()) {
    std::vector<float> values;
    const std::size_t heads = first[0].heads;
    for (std::size_t pass = 0; pass < maps.passes.size(); ++pass) {
      for (std::size_t layer = 0; layer < first.size(); ++layer) {
        for (std::size_t head = 0; head < heads; ++head) {
          const mllama::PatchMap map = maps.of(pass, layer, head);
          values.insert(values.end(), map.values.begin(), map.values.end());
        }
      }
    }
    const std::size_t shape[]{maps.passes.size(), first.size(), heads, maps.canvas.rows * maps.grid,
                              maps.canvas.columns * maps.grid};
    mllama::write_npy<float>(arguments.heat_map, values, shape);
    return mllama::concat(arguments.heat_map, ": ", shape[0], " tokens, ", shape[1], " cross layers, ", shape[2], " heads, ",
                          shape[3], " x ", shape[4], " patches\n");
  }
  std::vector<std::size_t> indices, heads, all;
  for (std::size_t i = 0; i < first.size(); ++i) {
    indices.push_back(first[i].index);
    all.push_back(i);
  }
  for (std::size_t i = 0; i < first[0].heads; ++i) heads.push_back(i);
  std::optional<std::size_t> head;
  if (arguments.head != "mean") head = number_of("--head", arguments.head, "mean", heads);

  std::vector<support::Word> wanted(words.begin(), words.end());
  if (!arguments.word.empty()) wanted = support::find_words(words, arguments.word, "--word");
  mllama::check(!wanted.empty(),
                [] { return mllama::Fault{.field = "--heat-map", .expected = "an answer with words", .found = "none"}; });
  std::vector<std::size_t> layers = all;
  if (arguments.layer == "best") {
    const auto sharpness = [&](std::size_t layer) { return maps.of(wanted, {&layer, 1}, head).sharpness(); };
    layers = {*std::max_element(all.begin(), all.end(), [&](auto a, auto b) { return sharpness(a) < sharpness(b); })};
  } else if (arguments.layer != "mean") {
    const std::size_t index = number_of("--layer", arguments.layer, "best, mean", indices);
    layers = {static_cast<std::size_t>(std::find(indices.begin(), indices.end(), index) - indices.begin())};
  }
  std::vector<mllama::Image> panels;
  std::string shown;
  for (const support::Word& word : wanted) {
    shown += mllama::concat(shown.empty() ? "" : " ", word.text);
    if (arguments.words) panels.push_back(mllama::draw_heat_map(picture, maps.of({&word, 1}, layers, head), fit, patch));
  }
  if (!arguments.words) panels.push_back(mllama::draw_heat_map(picture, maps.of(wanted, layers, head), fit, patch));
  mllama::write_png(arguments.heat_map, side_by_side(panels));
  return mllama::concat(arguments.heat_map, ": ", shown, ", ",
                        layers.size() == 1 ? mllama::concat("layer ", indices[layers[0]]) : std::string("all cross layers"), ", ",
                        head ? mllama::concat("head ", *head) : std::string("all heads"), '\n');
}

/// All that is compiled for each model type.
template <class Model>
void look(const Arguments& arguments) {
  using Lens = mllama::LogitLens<typename Model::Text>;
  using Watchers = mllama::Observers<support::Progress, mllama::NonFiniteFinder, mllama::AttentionMaps, Lens, mllama::Statistics,
                                     mllama::Recorder>;
  const auto model = mllama::load<Model>(arguments.model);
  const mllama::Numerics numerics = support::numerics_of(arguments.profile);
  const mllama::Tokenizer& tokenizer = model.require(model.tokenizer, "tokenizer.json");
  const support::Terminal terminal = arguments.quiet ? support::Terminal{} : support::Terminal::of_stderr();
  mllama::Context<support::Backend, Watchers> ctx(
      arguments.threads, Watchers(support::Progress(terminal), mllama::NonFiniteFinder{},
                                  mllama::AttentionMaps(arguments.wants_each_head(), !arguments.heat_map.empty()),
                                  Lens(model.model().language_model, arguments.lens), mllama::Statistics({}, arguments.statistics),
                                  mllama::Recorder({arguments.records.begin(), arguments.records.end()})));
  ctx.precision(support::precision_of(arguments.precision));
  ctx.key_format(support::key_format_of(arguments.kv));
  Watchers& watchers = ctx.observer();
  support::Progress& progress = watchers.template get<support::Progress>();
  support::Output output;
  mllama::Adapters adapters;
  const std::string notices = support::add_adapters(adapters, model, arguments.adapters, ctx);
  if (!arguments.quiet) support::write_stderr(notices);

  std::optional<mllama::Image> image;
  std::vector<mllama::Picture<Model>> pictures;
  std::vector<mllama::ContentPart> parts;
  if (!arguments.picture.empty()) {
    image = mllama::read_image(arguments.picture);
    progress.begin("Encoding", "vision_states", Model::Vision::layers + Model::Vision::global_layers);
    pictures.push_back(model.encode(*image, ctx, numerics));
    parts.emplace_back(mllama::ImagePart{});
  }
  parts.emplace_back(arguments.prompt);
  const mllama::Message message{"user", std::move(parts)};
  const auto prompt = tokenizer.encode(
      mllama::render_chat({&message, 1}, {.chat_template = model.chat_template.value_or(mllama::ChatTemplate::plain)}));
  progress.begin("Reading", "hidden_states", Model::Text::layers + 1);
  mllama::Session session(model.model(), ctx, numerics);
  mllama::Sampler greedy({.do_sample = false});
  mllama::TextStream stream(tokenizer);
  std::vector<std::string> texts;  // of tokens
  const auto on_token = [&](std::int32_t id) {
    progress.end();
    texts.emplace_back(tokenizer.is_special(id) ? std::string_view{} : tokenizer.id_to_piece(id));
    output.write(stream.push(id));
    return true;
  };
  generate(session, prompt, pictures, greedy, {model.generation.eos, arguments.max_new_tokens}, on_token);
  output.write(mllama::concat(stream.finish(), '\n'));

  if (arguments.lens) {
    const Lens& lens = watchers.template get<Lens>();
    output.write(mllama::concat("\nThe next token, if each layer were the last, and its probability in percent:\n",
                                lens.table([&](std::int32_t id) { return tokenizer.id_to_piece(id); })));
  }
  if (arguments.statistics) output.write(mllama::concat("\n", watchers.template get<mllama::Statistics>().table()));
  if (const auto& found = watchers.template get<mllama::NonFiniteFinder>().first()) {
    support::write_stderr(mllama::concat("not finite from here on: ", found->text(), '\n'));
  }
  if (!arguments.out.empty()) {
    const auto records = watchers.template get<mllama::Recorder>().records();
    mllama::check(!records.empty(), [&] {
      return mllama::Fault{.field = "--record", .expected = "the name of a tap that is passed", .found = arguments.records.front()};
    });
    if (arguments.out.ends_with(".safetensors")) {
      mllama::write_records(arguments.out, records, {{"model", std::string(Model::name)}});
    } else {
      mllama::write_records_as_npy(arguments.out, records);
    }
  }
  if (!arguments.heat_map.empty()) {
    const mllama::ProcessorConfig& config = model.processor->config();
    const mllama::Fit fit = mllama::fit_to_tiles(image->height, image->width, config.tile, config.max_tiles);
    using Shape = mllama::VisionShape<typename Model::Vision>;
    const Maps maps{watchers.template get<mllama::AttentionMaps>().passes(), fit.canvas, Shape::grid,
                    Shape::positions - Shape::patches};
    const std::string said = write_heat_map(arguments, *image, fit, Model::Vision::patch, maps, support::words_of(texts));
    if (!arguments.quiet) support::write_stderr(said);
  }
}

void declare(CLI::App& app, Arguments& arguments) {
  const auto add = [&](const char* name, auto& value, const char* what, const char* type) {
    return app.add_option(name, value, what)->type_name(type);
  };
  add("PROMPT", arguments.prompt, "what to ask; default: \"What is in the picture?\"", "");
  add("-m,--model", arguments.model, "folder as Hugging Face saves it; default: Pocket", "DIR");
  add("--adapter", arguments.adapters, "LoRA adapter as PEFT saves it; may be repeated", "DIR[=SCALE]")->allow_extra_args(false);
  add("-i,--image", arguments.picture, "picture, PNG, JPEG, PGM or PPM", "FILE");
  add("--heat-map", arguments.heat_map,
      "where the answer's words look: a PNG over the picture, or a .npy of (tokens, cross layers, heads, rows, columns)", "FILE");
  add("--word", arguments.word, "only where this word of the answer looks", "WORD");
  app.add_flag("--words", arguments.words, "a picture for each word, side by side");
  add("--layer", arguments.layer, "of the heat map: best (default: the one that points most), mean, or a number", "L");
  add("--head", arguments.head, "of the heat map: mean (default) or a number", "H");
  app.add_flag("--lens", arguments.lens, "what each layer would say next");
  app.add_flag("--stats", arguments.statistics, "smallest, largest, mean, … of what passes each tap");
  add("--record", arguments.records, "write what passes this tap: hidden_states, cross_attention.3, …; may be repeated", "TAP")
      ->allow_extra_args(false);
  add("--out", arguments.out, "where to: a .safetensors file, or a new folder of .npy files", "FILE");
  add("-n,--max-new-tokens", arguments.max_new_tokens, "end the answer after N tokens; default 64", "N")
      ->check(support::number<std::size_t>("a whole number from 1 on", 1));
  add("-t,--threads", arguments.threads, "threads to use; default: all of the machine", "N")
      ->check(support::number<unsigned>("a whole number from 1 to 1024", 1, 1024));
  add("--profile", arguments.profile, "numerics: meta (default), transformers_4_45, _4_55, _4_56 or meta_rows", "P");
  add("--precision", arguments.precision, "of products with quantised weights: f32 (default), int16 or int8", "P");
  add("--kv", arguments.kv, "how keys and values are kept: f32 (default), bf16, f16 or int8", "F");
  app.add_flag("-q,--quiet", arguments.quiet, "nothing on stderr unless something is wrong");
}

}  // namespace

int main(int argc, char** argv) {
  Arguments arguments;
  CLI::App app("Asks about a picture, and shows what happens inside the model while it answers.", "look");
  declare(app, arguments);
  return support::run(app, argc, argv, [&] {
    arguments.complete();
    mllama::with_model_of(arguments.model, Choices{}, [&]<class Model>(std::type_identity<Model>) { look<Model>(arguments); });
  });
}
