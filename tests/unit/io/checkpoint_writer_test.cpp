// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <mllama/core/thread_pool.hpp>
#include <mllama/io/checkpoint.hpp>
#include <mllama/io/checkpoint_writer.hpp>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "temporary_folder.hpp"

using namespace mllama;
using mllama_test::message;
using mllama_test::TemporaryFolder;

namespace {

std::vector<PlannedTensor> plan_of(const Safetensors& file) {
  std::vector<PlannedTensor> plan;
  for (const FileTensor& tensor : file.tensors()) plan.push_back({tensor.name, tensor.dtype, tensor.shape});
  return plan;
}

void write_all(CheckpointWriter& writer, const Safetensors& file) {
  for (const FileTensor& tensor : file.tensors()) writer.write(writer.find(tensor.name), 0, tensor.bytes);
}

std::string content(const std::string& path) { return std::string(MappedFile(path).text()); }

}  // namespace

TEST_CASE("a file of transformers, written anew in pieces, in any order and by several threads, is the same") {
  const std::string data = MLLAMA_TEST_DATA "/golden/models/";
  const auto seed = std::random_device{}();
  CAPTURE(seed);
  std::mt19937 random(seed);
  for (const std::string& source : {data + "bf16", data + "nf4_nested", data + "nf4_plain", data + "nf4_mixed", data + "odd",
                                    data + "one_tile", data + "appendix_a", std::string(MLLAMA_POCKET "/model-nf4")}) {
    CAPTURE(source);
    const TemporaryFolder folder;
    const Safetensors file(source + "/model.safetensors");
    CheckpointWriter writer(folder / "out", plan_of(file), {.metadata = file.metadata()});
    struct Piece {
      const FileTensor* tensor;
      std::size_t begin, end;
    };
    std::vector<Piece> pieces;
    for (const FileTensor& tensor : file.tensors()) {
      for (std::size_t begin = 0; begin < tensor.bytes.size();) {
        const std::size_t end = std::min(tensor.bytes.size(), begin + 1 + random() % 20'000);
        pieces.push_back({&tensor, begin, end});
        begin = end;
      }
    }
    std::shuffle(pieces.begin(), pieces.end(), random);
    ThreadPool(3).parallel_for(pieces.size(), 1, [&](std::size_t first, std::size_t last, unsigned) {
      for (std::size_t i = first; i < last; ++i) {
        const auto [tensor, begin, end] = pieces[i];
        writer.write(writer.find(tensor->name), begin, tensor->bytes.subspan(begin, end - begin));
      }
    });
    writer.commit();
    CHECK(content(folder / "out/model.safetensors") == content(source + "/model.safetensors"));
    CHECK(folder.files() == 1);
    write_safetensors(folder / "whole", file.tensors(), file.metadata());
    CHECK(folder.read("whole") == content(source + "/model.safetensors"));
  }
}

TEST_CASE("a folder of several files and their index, as transformers wrote it") {
  const std::string source = MLLAMA_POCKET "/model/";
  const Safetensors first(source + "model-00001-of-00002.safetensors"), second(source + "model-00002-of-00002.safetensors");
  std::vector<PlannedTensor> plan = plan_of(first);
  const std::vector<PlannedTensor> more = plan_of(second);
  plan.insert(plan.end(), more.begin(), more.end());
  const auto bytes = [](const Safetensors& file) {
    return std::transform_reduce(file.tensors().begin(), file.tensors().end(), std::size_t{0}, std::plus<>(),
                                 [](const FileTensor& tensor) { return tensor.bytes.size(); });
  };
  const TemporaryFolder folder;
  CheckpointWriter writer(folder / "out", plan, {.max_shard_bytes = bytes(first), .total_parameters = 2350219});
  CHECK(writer.size() == plan.size());
  CHECK(writer.tensor_bytes() == bytes(first) + bytes(second));
  write_all(writer, second);
  write_all(writer, first);
  const std::vector<std::string> others{"config.json", "tokenizer.json"};
  for (const std::string& name : others) writer.copy_file(source + name, name);
  writer.add_file("text", "more");
  writer.commit();
  for (const char* name : {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json",
                           "config.json", "tokenizer.json"}) {
    CAPTURE(name);
    CHECK(content(concat(folder / "out/", name)) == content(source + name));
  }
  CHECK(folder.read("out/text") == "more");
  CHECK(Checkpoint::open(folder / "out").mapped_bytes() == writer.tensor_bytes());
}

TEST_CASE("tensors are spread over files as transformers does it") {
  const auto tensor = [](std::string name, std::size_t bytes) { return PlannedTensor{std::move(name), Dtype::U8, {bytes}}; };
  const TemporaryFolder folder;
  CheckpointWriter writer(folder / "out",
                          {tensor("a", 4), tensor("huge", 11), tensor("b", 6), tensor("c", 1), tensor("empty", 0), tensor("d", 10)},
                          {.max_shard_bytes = 10});
  const std::string text(11, 'x');
  const std::size_t lengths[] = {4, 11, 6, 1, 0, 10};
  for (std::size_t i = 0; i < writer.size(); ++i) writer.write(i, 0, std::string_view(text).substr(0, lengths[i]));
  writer.commit();
  CHECK(folder.read("out/model.safetensors.index.json") == R"({
  "metadata": {
    "total_size": 32
  },
  "weight_map": {
    "a": "model-00002-of-00004.safetensors",
    "b": "model-00002-of-00004.safetensors",
    "c": "model-00003-of-00004.safetensors",
    "d": "model-00004-of-00004.safetensors",
    "empty": "model-00003-of-00004.safetensors",
    "huge": "model-00001-of-00004.safetensors"
  }
}
)");
  CHECK(Checkpoint::open(folder / "out").mapped_bytes() == 32);
}

TEST_CASE("late tensors have their places when the lengths before them are known") {
  const TemporaryFolder folder;
  const std::string state(93, 's'), codes = "0123456789";
  const auto late = [](std::string name, std::size_t most) { return PlannedTensor{std::move(name), Dtype::U8, {most}, true}; };
  const auto written = [&](std::size_t most) {
    std::filesystem::remove_all(folder / "out");
    CheckpointWriter writer(folder / "out", {{"a", Dtype::U8, {10, 1}},
                                             late("a.state", most),
                                             {"b", Dtype::U8, {10, 1}},
                                             late("b.state", most),
                                             {"c", Dtype::U8, {10}},
                                             {"scale", Dtype::F32, {1}}});
    const auto what = [&](auto&& action) { return message<input_error>(action); };
    const std::string before = ": expected lengths of all late tensors before this one in the file, found one without";
    writer.write(0, 0, codes);
    writer.write(5, 0, std::string(4, '\0'));
    CHECK(what([&] { writer.write(1, 0, state); }) == folder / "out: a.state: expected a length before bytes, found none");
    CHECK(what([&] { writer.write(2, 0, codes); }) == folder / "out: b" + before);
    CHECK(what([&] { writer.set_length(1, most + 1); }).find(concat("a length of at most ", most)) != std::string::npos);
    writer.set_length(3, state.size());  // not in order: it still has no place
    CHECK(what([&] { writer.write(3, 0, state); }) == folder / "out: b.state" + before);
    writer.set_length(1, state.size());
    CHECK(what([&] { writer.set_length(1, 1); }).find("expected a tensor declared as late") != std::string::npos);
    CHECK(what([&] { writer.set_length(2, 1); }).find("expected a tensor declared as late") != std::string::npos);
    writer.write(4, 0, codes);
    writer.write(3, 0, state);
    writer.write(2, 0, codes);
    writer.write(1, 0, state);
    writer.commit();
    return folder.read("out/model.safetensors");
  };
  write_safetensors(folder / "reference",
                    std::vector<FileTensor>{{"a", Dtype::U8, {10, 1}, std::as_bytes(std::span(codes))},
                                            {"a.state", Dtype::U8, {93}, std::as_bytes(std::span(state))},
                                            {"b", Dtype::U8, {10, 1}, std::as_bytes(std::span(codes))},
                                            {"b.state", Dtype::U8, {93}, std::as_bytes(std::span(state))},
                                            {"c", Dtype::U8, {10}, std::as_bytes(std::span(codes))},
                                            {"scale", Dtype::F32, {1}, std::as_bytes(std::span("\0\0\0", 4))}},
                    {{"format", "pt"}});
  const std::string reference = folder.read("reference");
  CHECK(written(93) == reference);
  CHECK(written(95) == reference);  // as many digits
  const std::string roomy = written(100'000'000);
  CHECK(roomy.size() > reference.size());
  CHECK(roomy.size() % 8 == reference.size() % 8);
  CHECK(roomy.find("}}     ") != std::string::npos);
  const Safetensors file(folder / "out/model.safetensors");
  CHECK(file.tensors().size() == 6);
  CHECK(std::ranges::equal(file.find("b.state")->bytes, std::as_bytes(std::span(state))));
  CHECK(file.find("a.state")->shape == Shape{93});
}

TEST_CASE("a tensor that is not written, or twice, is no success") {
  const TemporaryFolder folder;
  const auto what = [&](auto&& action) {
    return message<input_error>([&] {
      CheckpointWriter writer(folder / "out", {{"a", Dtype::U8, {4}}, {"late", Dtype::U8, {9}, true}});
      writer.set_length(1, 0);
      action(writer);
      writer.commit();
    });
  };
  CHECK(what([](CheckpointWriter&) {}) == folder / "out: a: expected 4 bytes to be written, found 0");
  CHECK(what([](CheckpointWriter& w) { w.write(0, 1, "234"); }) == folder / "out: a: expected 4 bytes to be written, found 3");
  CHECK(what([](CheckpointWriter& w) {
          w.write(0, 0, "1234");
          w.write(0, 3, "4");
        }) == folder / "out: a: expected 4 bytes to be written, found 5");
  CHECK(what([](CheckpointWriter& w) { w.write(0, 3, "45"); }) ==
        folder / "out: a: expected a place in 4 bytes, found 2 from 3 on");
  CHECK(what([](CheckpointWriter& w) { w.write(0, ~std::size_t{0}, "1"); }).find("a place in 4 bytes") != std::string::npos);
  CHECK(what([](CheckpointWriter& w) { w.write(2, 0, "1"); }) == folder / "out: expected the number of one of 2 tensors, found 2");
  CHECK(what([](CheckpointWriter& w) { static_cast<void>(w.find("b")); }) ==
        folder / "out: b: no tensor of this name was declared");
  CHECK(message<input_error>([&] {
          CheckpointWriter(folder / "out", {{"late", Dtype::U8, {9}, true}}).commit();
        }) == folder / "out: late: expected a length, found none");
  CHECK(folder.files() == 0);
}

TEST_CASE("what no file can have is refused before anything is there") {
  const TemporaryFolder folder;
  const auto what = [&](std::vector<PlannedTensor> tensors, std::size_t most = 100) {
    return message<format_error>([&] { CheckpointWriter writer(folder / "out", std::move(tensors), {.max_shard_bytes = most}); });
  };
  CHECK(what({{"a", Dtype::U8, {1}}, {"b", Dtype::U8, {1}}, {"a", Dtype::U8, {1}}}, 1) ==
        folder / "out: a: expected every name once, found this one twice");
  CHECK(what({{"\xff", Dtype::U8, {1}}}).find("UTF-8") != std::string::npos);
  CHECK(what({{"__metadata__", Dtype::U8, {1}}}).find("__metadata__") != std::string::npos);
  CHECK(what({{"a", Dtype::F4, {3}}}).find("a: expected a whole number of bytes") != std::string::npos);
  const std::size_t huge = std::size_t{1} << 60U;
  CHECK(what({{"a", Dtype::U8, {huge}}, {"b", Dtype::U8, {huge}}, {"c", Dtype::U8, {huge}}, {"d", Dtype::U8, {huge}}})
            .find("less than 2^62") != std::string::npos);
  CHECK(what({{"a", Dtype::F32, {huge, huge}}}).find("less than 2^62") != std::string::npos);
  CHECK(message<file_error>([&] {
          CheckpointWriter(folder / "out", {{"a", Dtype::U8, {huge}}});
        }).find("bytes of free space") != std::string::npos);
  CHECK(message<input_error>([&] {
          CheckpointWriter(folder / "out", {{"a", Dtype::U8, {2, 2}, true}});
        }).find("one length of a late tensor") != std::string::npos);
  CHECK(folder.files() == 0);
}

TEST_CASE("no tensors, and tensors without elements") {
  const TemporaryFolder folder;
  CheckpointWriter(folder / "none", {}).commit();
  CHECK(Safetensors(folder / "none/model.safetensors").tensors().empty());
  CheckpointWriter(folder / "empty", {{"a", Dtype::F32, {0, 3}}}).commit();
  CHECK(Safetensors(folder / "empty/model.safetensors").find("a")->shape == Shape{0, 3});
}

TEST_CASE("a write that fails in the middle leaves nothing") {
  const TemporaryFolder folder;
  const pid_t child = ::fork();
  if (child == 0) {
    const rlimit limit{.rlim_cur = 1000, .rlim_max = 1000};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    const std::string what = message<file_error>([&] {
      CheckpointWriter writer(folder / "out", {{"a", Dtype::U8, {2000}}});
      writer.write(0, 0, std::string(500, 'x'));
      writer.write(0, 500, std::string(1500, 'x'));
    });
    ::_exit(what == folder / "out/model.safetensors: cannot write: File too large" && folder.files() == 0 ? 0 : 1);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  CHECK(status == 0);
}
