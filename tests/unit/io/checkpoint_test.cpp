// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <functional>
#include <limits>
#include <mllama/io/checkpoint.hpp>
#include <mllama/io/safetensors_writer.hpp>
#include <random>
#include <vector>

#include "four_bit_matrix.hpp"
#include "temporary_folder.hpp"

using namespace mllama;
using mllama_test::FourBitMatrix;
using mllama_test::message;
using mllama_test::TemporaryFolder;

namespace {

constexpr std::array<float, 6> ramp{1, -2, 3, -4, 5, 6};
constexpr std::array<std::uint16_t, 6> ramp_bf16{0x3f80, 0xc000, 0x4040, 0xc080, 0x40a0, 0x40c0};
constexpr std::array<std::uint16_t, 6> ramp_f16{0x3c00, 0xc000, 0x4200, 0xc400, 0x4500, 0x4600};

FileTensor f32(std::string name, Shape shape = {2, 3}) {
  return {std::move(name), Dtype::F32, std::move(shape), std::as_bytes(std::span(ramp))};
}
FileTensor bf16(std::string name) { return {std::move(name), Dtype::BF16, {2, 3}, std::as_bytes(std::span(ramp_bf16))}; }
FileTensor f16(std::string name) { return {std::move(name), Dtype::F16, {2, 3}, std::as_bytes(std::span(ramp_f16))}; }

void write(const TemporaryFolder& folder, const std::vector<FileTensor>& tensors) {
  write_safetensors(folder / "model.safetensors", tensors);
}

/// What `weights` hold if they can be bound to `name`.
template <class F>
std::vector<float> bound(Checkpoint& checkpoint, std::string_view name, const Shape& shape = {2, 3}) {
  Weights<F> weights;
  checkpoint.bind(weights, name, shape);
  CHECK(weights.loaded());
  std::vector<float> values;
  with_format(weights, [&](const auto& w) { values.resize(w.rows * w.columns); });
  weights.decode(0, values);
  return values;
}

const std::vector<float> ramp_values(ramp.begin(), ramp.end());

}  // namespace

TEST_CASE("each tensor is bound in the format that it has") {
  const TemporaryFolder folder;
  const FourBitMatrix plain(2, 3, 64, false), nested(2, 3, 64, true);
  std::vector<FileTensor> tensors{f32("model.a.weight"), bf16("language_model.model.b.weight"), f16("c.weight"), f32("gate", {6})};
  for (const auto& [matrix, name] : {std::pair{&plain, "model.d.weight"}, {&nested, "model.e.weight"}}) {
    for (FileTensor& tensor : matrix->tensors(name)) tensors.push_back(std::move(tensor));
  }
  write(folder, tensors);

  Checkpoint opened = Checkpoint::open(folder.path());
  Weights<Stored> before;
  opened.bind(before, "b.weight", Shape{2, 3});
  Checkpoint checkpoint = std::move(opened);  // what has been bound stays where it is
  std::vector<float> values(6);
  before.decode(0, values);
  CHECK(values == ramp_values);
  CHECK(std::holds_alternative<Weights<BF16>>(before.stored));

  CHECK(bound<Stored>(checkpoint, "a.weight") == ramp_values);
  CHECK(bound<StoredFloat>(checkpoint, "c.weight") == ramp_values);
  CHECK(bound<F32>(checkpoint, "a.weight") == ramp_values);
  CHECK(bound<BF16>(checkpoint, "b.weight") == ramp_values);
  CHECK(bound<F16>(checkpoint, "c.weight") == ramp_values);
  CHECK(bound<F32>(checkpoint, "gate", {6}) == ramp_values);
  CHECK(checkpoint.owned_bytes() == 0);
  for (const auto& [matrix, name] : {std::pair{&plain, "d.weight"}, {&nested, "e.weight"}}) {
    for (const auto& found : {bound<Stored>(checkpoint, name), bound<NF4>(checkpoint, name)}) {
      for (std::size_t e = 0; e < found.size(); ++e) CHECK(found[e] == matrix->element(e));
    }
  }
  CHECK(checkpoint.unused().empty());
}

TEST_CASE("narrow floats are widened where only F32 will do") {
  const TemporaryFolder folder;
  write(folder, {bf16("a"), f16("b"), f32("c")});
  Checkpoint checkpoint = Checkpoint::open(folder.path());
  CHECK(bound<F32>(checkpoint, "a") == ramp_values);
  CHECK(bound<F32>(checkpoint, "b") == ramp_values);
  CHECK(bound<AnyOf<NF4, F32>>(checkpoint, "a") == ramp_values);
  CHECK(checkpoint.owned_bytes() == 3 * 24);
  CHECK(checkpoint.mapped_bytes() == 12 + 12 + 24);
  Weights<BF16> weights;
  CHECK_THROWS_AS(checkpoint.bind(weights, "b", Shape{2, 3}), shape_error);
  CHECK_THROWS_AS(checkpoint.bind(weights, "c", Shape{2, 3}), shape_error);
}

TEST_CASE("tensors that are not aligned are copied") {
  const TemporaryFolder folder;
  std::string header = R"({"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}})";
  while (header.size() % 8 != 3) header += ' ';
  std::string file(1, static_cast<char>(header.size()));
  file.append(7, '\0').append(header).append(reinterpret_cast<const char*>(ramp.data()), sizeof ramp);
  folder.write("model.safetensors", file);
  Checkpoint checkpoint = Checkpoint::open(folder.path());
  CHECK(bound<F32>(checkpoint, "a") == ramp_values);
  CHECK(bound<Stored>(checkpoint, "a") == ramp_values);
  CHECK(checkpoint.owned_bytes() == 48);
}

TEST_CASE("what does not fit is named, with what was expected and found") {
  const TemporaryFolder folder;
  const FourBitMatrix matrix(2, 3, 64, false);
  std::vector<FileTensor> tensors = matrix.tensors("q.weight");
  tensors.push_back(f32("f.weight"));
  tensors.push_back({"i.weight", Dtype::I8, {2, 3}, std::as_bytes(std::span(ramp)).first(6)});
  tensors.push_back({"i.SCB", Dtype::F32, {2}, std::as_bytes(std::span(ramp)).first(8)});
  tensors.push_back({"d.weight", Dtype::F64, {3}, std::as_bytes(std::span(ramp))});
  tensors.push_back(f32("o.weight"));
  tensors.push_back({"o.weight.absmax", Dtype::F32, {2}, std::as_bytes(std::span(ramp)).first(8)});
  tensors.push_back({"b.weight", Dtype::I8, {2, 3}, std::as_bytes(std::span(ramp)).first(6)});
  write(folder, tensors);
  Checkpoint checkpoint = Checkpoint::open(folder.path());
  const std::string file = folder / "model.safetensors: ";
  const auto what = [&]<class F>(F, std::string_view name, const Shape& shape) {
    return message<shape_error>([&] {
      Weights<F> weights;
      checkpoint.bind(weights, name, shape);
    });
  };
  CHECK(what(Stored{}, "none.weight", {2, 3}) ==
        folder.path() + ": none.weight: expected a tensor [2, 3], found none of this name");
  CHECK(what(Stored{}, "f.weight", {3, 2}) == file + "f.weight: expected [3, 2], found F32 [2, 3]");
  CHECK(what(F32{}, "f.weight", {6}) == file + "f.weight: expected [6], found F32 [2, 3]");
  CHECK(what(Stored{}, "q.weight", {3, 2}) == file + "q.weight: expected [3, 2], found [2, 3]");
  CHECK(what(StoredFloat{}, "q.weight", {2, 3}).starts_with(file + "q.weight: expected BF16, F16, F32, found bitsandbytes nf4: "));
  CHECK(what(FP4{}, "q.weight", {2, 3}).starts_with(file + "q.weight: expected FP4, found bitsandbytes nf4: "));
  CHECK(what(Int8{}, "q.weight", {2, 3}).starts_with(file + "q.weight: expected INT8, found bitsandbytes nf4: "));
  CHECK(what(Int8{}, "f.weight", {2, 3}).starts_with(file + "f.weight: expected INT8, found F32: "));
  CHECK(what(StoredFloat{}, "i.weight", {2, 3}).starts_with(file + "i.weight: expected BF16, F16, F32, found I8 of LLM.int8(): "));
  CHECK(what(Stored{}, "b.weight", {2, 3})
            .starts_with(file + "b.weight: expected NF4, FP4, INT8, BF16, F16, F32, NF4x8, found I8 without scales SCB: "));
  CHECK(what(NF4{}, "f.weight", {2, 3}).starts_with(file + "f.weight: expected NF4, found F32: "));
  CHECK(what(F32{}, "d.weight", {3}).starts_with(file + "d.weight: expected F32, found F64: "));
  CHECK(message<format_error>([&] { bound<F32>(checkpoint, "o.weight"); }) ==
        file + "o.weight.absmax: expected a quantisation state beside it, found none");
}

TEST_CASE("8-bit rows and their scales") {
  constexpr std::array<std::int8_t, 6> codes{127, -127, 0, 1, -128, 64};
  constexpr std::array<float, 2> scales{0.5F, 2};
  constexpr std::array<std::uint8_t, 1> row_major{0}, turing{2};
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const std::array<float, 2> broken{1, nan};
  constexpr std::array<float, 1> short_scales{1};
  const TemporaryFolder folder;
  const auto matrix = [&](const std::string& name, const auto& of_rows, const auto& order) {
    return std::vector<FileTensor>{{name + ".weight", Dtype::I8, {2, 3}, std::as_bytes(std::span(codes))},
                                   {name + ".SCB", Dtype::F32, {of_rows.size()}, std::as_bytes(std::span(of_rows))},
                                   {name + ".weight_format", Dtype::U8, {}, std::as_bytes(std::span(order))}};
  };
  std::vector<FileTensor> tensors = matrix("model.a", scales, row_major);
  for (const auto& more : {matrix("b", scales, turing), matrix("c", broken, row_major), matrix("d", short_scales, row_major)}) {
    tensors.insert(tensors.end(), more.begin(), more.end());
  }
  tensors.push_back({"old.weight", Dtype::I8, {2, 3}, std::as_bytes(std::span(codes))});
  tensors.push_back({"old.SCB", Dtype::F32, {2}, std::as_bytes(std::span(scales))});
  write(folder, tensors);
  Checkpoint checkpoint = Checkpoint::open(folder.path());

  constexpr float step = 7.874015718698502e-3F;
  const std::vector<float> expected{63.5F * step, -63.5F * step, 0, 2 * step, -256 * step, 128 * step};
  CHECK(bound<Stored>(checkpoint, "a.weight") == expected);
  CHECK(bound<Int8>(checkpoint, "a.weight") == expected);
  CHECK(bound<Int8>(checkpoint, "old.weight") == expected);
  CHECK(checkpoint.owned_bytes() == 0);
  const auto unused = checkpoint.unused();
  CHECK(std::ranges::count(unused, "a.weight_format") == 0);
  CHECK(std::ranges::count(unused, "b.SCB") == 1);

  const std::string file = folder / "model.safetensors: ";
  const auto what = [&](std::string_view name) { return message<format_error>([&] { bound<Stored>(checkpoint, name); }); };
  CHECK(what("b.weight").starts_with(file + "b.weight_format: expected 0, rows one after the other, found 2"));
  CHECK(what("c.weight") == file + "c.SCB: expected finite numbers, found NaN or infinity");
  CHECK(what("d.weight") == file + "d.SCB: expected 2 elements of F32, found 1 of F32");
}

TEST_CASE("8-bit rows whose parts are not what they should be") {
  constexpr std::array<std::int8_t, 6> codes{1, 2, 3, 4, 5, 6};
  const float infinity = std::numeric_limits<float>::infinity();
  struct Row {
    const char* part;
    std::function<void(FileTensor& weight, FileTensor& scales, FileTensor& layout)> change;
  };
  std::array<float, 2> scales{1, 2};
  std::array<std::uint8_t, 8> layout{};
  const auto layout_code = [&](std::uint8_t code) {
    return [&layout, code](FileTensor&, FileTensor&, FileTensor&) { layout[0] = code; };
  };
  const Row rows[] = {
      {"a.weight_format: expected 0, rows one after the other, found 1: bytes in an order for old GPUs", layout_code(1)},
      {"a.weight_format: expected 0, rows one after the other, found 2", layout_code(2)},
      {"a.weight_format: expected 0, rows one after the other, found 3", layout_code(3)},
      {"a.weight_format: expected 0, rows one after the other, found 255", layout_code(255)},
      {"a.weight_format: expected 1 elements of U8, found 2 of U8",
       [&](FileTensor&, FileTensor&, FileTensor& f) {
         f.shape = {2};
         f.bytes = std::as_bytes(std::span(layout)).first(2);
       }},
      {"a.weight_format: expected 1 elements of U8, found 1 of I64",
       [&](FileTensor&, FileTensor&, FileTensor& f) {
         f.dtype = Dtype::I64;
         f.bytes = std::as_bytes(std::span(layout));
       }},
      {"a.SCB: expected finite numbers", [&](FileTensor&, FileTensor&, FileTensor&) { scales[1] = -infinity; }},
      {"a.SCB: expected 2 elements of F32, found 2 of F16",
       [](FileTensor&, FileTensor& s, FileTensor&) {
         s.dtype = Dtype::F16;
         s.bytes = s.bytes.first(4);
       }},
      {"a.SCB: expected 2 elements of F32, found 1 of F32",
       [](FileTensor&, FileTensor& s, FileTensor&) {
         s.shape = {1, 1};
         s.bytes = s.bytes.first(4);
       }},
      {"a.weight: expected [2, 3], found I8 [3, 2]",
       [](FileTensor& w, FileTensor&, FileTensor&) {
         w.shape = {3, 2};
       }},
      {"a.weight: expected [2, 3], found I8 [6]", [](FileTensor& w, FileTensor&, FileTensor&) { w.shape = {6}; }},
      {"a.weight: expected NF4, FP4, INT8, BF16, F16, F32, NF4x8, found U8",
       [](FileTensor& w, FileTensor&, FileTensor&) { w.dtype = Dtype::U8; }},
      {"found I8 without scales SCB", [](FileTensor&, FileTensor& s, FileTensor&) { s.name = "a.scb"; }},
  };
  const TemporaryFolder folder;
  for (const Row& row : rows) {
    CAPTURE(row.part);
    scales = {1, 2};
    layout = {};
    std::vector<FileTensor> tensors{{"a.weight", Dtype::I8, {2, 3}, std::as_bytes(std::span(codes))},
                                    {"a.SCB", Dtype::F32, {2}, std::as_bytes(std::span(scales))},
                                    {"a.weight_format", Dtype::U8, {}, std::as_bytes(std::span(layout)).first(1)}};
    row.change(tensors[0], tensors[1], tensors[2]);
    write(folder, tensors);
    Checkpoint checkpoint = Checkpoint::open(folder.path());
    const std::string what = message<error>([&] { bound<Stored>(checkpoint, "a.weight"); });
    CAPTURE(what);
    CHECK(what.starts_with(folder / "model.safetensors: a."));
    CHECK(what.find(row.part) != std::string::npos);
  }
}

TEST_CASE("what nothing was bound to is listed") {
  const TemporaryFolder folder;
  write(folder, {f32("model.a"), f32("model.b"), f32("model.rotary_emb.inv_freq")});
  Checkpoint checkpoint = Checkpoint::open(folder.path());
  bound<F32>(checkpoint, "b");
  CHECK(checkpoint.unused() == std::vector<std::string_view>{"a", "rotary_emb.inv_freq"});
  CHECK(checkpoint.find("a")->stored.tensor->name == "model.a");
  CHECK(checkpoint.find("model.a") == nullptr);
}

TEST_CASE("shards come in any order, and a matrix may be spread over them") {
  const TemporaryFolder folder;
  const FourBitMatrix matrix(2, 3, 64, true);
  const auto parts = matrix.tensors("model.q.weight");
  std::string map;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const std::string shard = concat("model-", 9 - i, ".safetensors");
    write_safetensors(folder / shard, std::span(parts).subspan(i, 1));
    map += concat(i == 0 ? "" : ", ", "\"", parts[i].name, "\": \"", shard, "\"");
  }
  folder.write("model.safetensors.index.json", concat(R"({"metadata": {"total_size": 7, "more": []}, "weight_map": {)", map, "}}"));
  Checkpoint checkpoint = Checkpoint::open(folder.path());
  const auto found = bound<Stored>(checkpoint, "q.weight");
  for (std::size_t e = 0; e < found.size(); ++e) CHECK(found[e] == matrix.element(e));
  CHECK(checkpoint.unused().empty());

  const std::array<std::int8_t, 6> codes{127, 0, 0, 0, 0, 127};
  const std::array<float, 2> scales{1, 2};
  write_safetensors(folder / "b", std::vector<FileTensor>{{"i.weight", Dtype::I8, {2, 3}, std::as_bytes(std::span(codes))}});
  write_safetensors(folder / "a", std::vector<FileTensor>{{"i.SCB", Dtype::F32, {2}, std::as_bytes(std::span(scales))}});
  folder.write("model.safetensors.index.json", R"({"weight_map": {"i.weight": "b", "i.SCB": "a"}})");
  Checkpoint rows = Checkpoint::open(folder.path());
  CHECK(bound<Int8>(rows, "i.weight")[5] == 254 * 7.874015718698502e-3F);
}

TEST_CASE("a tensor of Meta's layout with parts of a quantised one is not taken for codes") {
  const TemporaryFolder folder;
  folder.write("config.json", R"({"model_type": "mllama", "text_config": {"hidden_size": 8, "num_attention_heads": 2,
    "num_key_value_heads": 2}, "vision_config": {}})");
  const FourBitMatrix matrix(8, 8, 32, false);
  std::vector<FileTensor> tensors = matrix.tensors("layers.0.self_attn.q_proj.weight");
  const std::vector<float> values(64);
  tensors[0] = {"text_model.layers.0.attention.wq.weight", Dtype::F32, {8, 8}, std::as_bytes(std::span(values))};
  write(folder, tensors);
  Checkpoint checkpoint = Checkpoint::open(folder.path());
  CHECK(message<format_error>([&] {
          bound<Stored>(checkpoint, "layers.0.self_attn.q_proj.weight", {8, 8});
        }).find("attention.wq.weight: expected no parts of a quantised tensor beside one of Meta's layout") != std::string::npos);
}

TEST_CASE("no mutation of a quantised file does more than throw an error") {
  const TemporaryFolder folder;
  const auto seed = std::random_device{}();
  CAPTURE(seed);
  std::mt19937 random(seed);
  for (const bool nested : {false, true}) {
    const FourBitMatrix matrix(5, 16, 32, nested);
    write(folder, matrix.tensors("q.weight"));
    const std::string valid = folder.read("model.safetensors");
    // Half of the edits hit the header or the state's text, where the structure is.
    const std::size_t header = valid.find_last_of('}', valid.find("quant_type") - 3), text = valid.find("{\"quant_type");
    for (int round = 0; round < 2000; ++round) {
      std::string mutant = valid;
      for (std::size_t edits = 1 + random() % 3; edits != 0; --edits) {
        const std::size_t where = random() % 4;
        const std::size_t at = where == 0   ? 8 + random() % header
                               : where == 1 ? text + random() % matrix.state.size()
                                            : random() % valid.size();
        mutant[at] = where <= 1 && random() % 2 == 0 ? "0123456789,:\"{}[]-.eN"[random() % 21] : static_cast<char>(random());
      }
      folder.write("model.safetensors", mutant);
      try {
        Checkpoint checkpoint = Checkpoint::open(folder.path());
        std::vector<float> values(80);
        Weights<Stored> weights;
        checkpoint.bind(weights, "q.weight", Shape{5, 16});
        weights.decode(0, values);
      } catch (const error&) {
      }
    }
  }
}

TEST_CASE("files that transformers and bitsandbytes have saved") {
  const std::string models = std::string(MLLAMA_TEST_DATA) + "/golden/models/";
  for (const char* name :
       {"appendix_a", "bf16", "nf4_mixed", "nf4_nested", "nf4_plain", "odd", "one_tile", "ratios", "three_tiles"}) {
    CAPTURE(name);
    Checkpoint checkpoint = Checkpoint::open(models + name);
    std::size_t quantized = 0;
    for (const std::string_view key : checkpoint.unused()) {
      CAPTURE(key);
      if (const std::size_t suffix = key.find(".quant_state."); suffix != std::string_view::npos) {
        const FileTensor& state = *checkpoint.find(key)->stored.tensor;
        const JsonField text = parse_json({reinterpret_cast<const char*>(state.bytes.data()), state.bytes.size()}, name);
        Shape shape;
        for (const JsonField& length : text["shape"].elements()) shape.push_back(length.as<std::size_t>());
        Weights<NF4> weights;
        checkpoint.bind(weights, key.substr(0, suffix), shape);
        ++quantized;
      }
    }
    for (const std::string_view key : checkpoint.unused()) {
      CAPTURE(key);
      Weights<StoredFloat> weights;
      checkpoint.bind(weights, key, checkpoint.find(key)->shape);
    }
    CHECK((quantized > 0) == std::string_view(name).starts_with("nf4"));
    CHECK(checkpoint.unused().empty());
    CHECK(checkpoint.owned_bytes() == 0);
  }
}
