// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include <mllama/generate/memory_check.hpp>

#include "tiny_folder.hpp"

using namespace mllama;
using namespace mllama_test;

namespace {

constexpr std::uint32_t seed = 71;
constexpr Workload work{.tokens = 3000, .images = 1, .new_tokens = 10};  // so long that text takes more than the picture

/// The same folder with tensors of 16 bits, which are widened.
void halve(const TinyFolder& folder) {
  std::vector<std::vector<std::uint16_t>> halves;
  std::vector<FileTensor> tensors;
  const auto saved = saved_tensors(*folder.random.model);
  halves.reserve(saved.size());
  for (const SavedTensor& tensor : saved) {
    auto& half = halves.emplace_back();
    for (const float value : tensor.values) half.push_back(BF16::encode(value));
    tensors.push_back({tensor.name, Dtype::BF16, tensor.shape, std::as_bytes(std::span(half))});
  }
  write_safetensors(folder / "model.safetensors", tensors);
}

}  // namespace

TEST_CASE("the plan of a folder has the bytes of its files, and those that loading copies") {
  const TinyFolder folder(seed);
  Context<> ctx(1);
  const auto compare = [&](std::string_view format) {
    const ModelFiles files = ModelFiles::open(folder.path());
    CHECK(storage_of(files).format == format);
    const Plan<Tiny> planned = plan_folder<Tiny>(files, work, KeyFormat::f32, ctx);
    CHECK(planned.total().weights == files.mapped_bytes());
    CHECK(planned.total().parameters == count_parameters<Tiny>().elements);
    CHECK(planned.total().widened == load_weights<Tiny>(folder.path()).files.owned_bytes());
    CHECK(planned.workspace == plan<Tiny>(work, {{F32::name}, KeyFormat::f32}, ctx).workspace);
  };
  compare("F32");
  halve(folder);
  compare("BF16");
}

TEST_CASE("what does not fit is refused with figures and what would fit, before anything is loaded") {
  const TinyFolder folder(seed);
  Context<> ctx(1);
  const std::size_t needed = plan_folder<Tiny>(ModelFiles::open(folder.path()), work, KeyFormat::f32, ctx).memory();
  const auto refusal = [&](std::size_t available, KeyFormat keys = KeyFormat::f32) {
    return message<memory_error>([&] { require_memory<Tiny>(folder.path(), work, keys, ctx, available); });
  };
  CHECK(refusal(needed) == "no exception");
  const std::string figures =
      concat(" of memory, found ", mllama::detail::readable_bytes(needed), " for 3000 tokens and 1 picture (");
  const std::string little = refusal(needed - 1);
  CHECK(little.starts_with(concat(folder.path(), ": expected at most ")));
  CHECK(little.find(figures) != little.npos);
  CHECK(little.find("): it would fit with keys and values in bf16") != little.npos);
  CHECK(little.find(", or a prompt of at most ") != little.npos);
  CHECK(refusal(1000).ends_with("): neither other formats nor a shorter prompt would make it fit"));
  CHECK(ctx.workspace().capacity() == 0);
  CHECK(ctx.key_format() == KeyFormat::f32);

  // The prompt that is said to fit does, and one that is longer does not.
  const std::size_t available = needed - 100'000;
  const std::string text = refusal(available);
  const std::string_view before = "a prompt of at most ";
  REQUIRE(text.find(before) != text.npos);
  const std::size_t longest = std::stoul(text.substr(text.find(before) + before.size()));
  CHECK(longest < work.tokens);
  Workload shorter = work;
  shorter.tokens = longest;
  CHECK_NOTHROW(require_memory<Tiny>(folder.path(), shorter, KeyFormat::f32, ctx, available));
  shorter.tokens = longest + 1;
  CHECK_THROWS_AS(require_memory<Tiny>(folder.path(), shorter, KeyFormat::f32, ctx, available), memory_error);

  // Weights are not read for it: a folder without pictures' part is planned without, and one of another type is refused as such.
  const TextOnlyFolder text_only(seed);
  CHECK_NOTHROW(require_memory<Tiny>(text_only.path(), work, KeyFormat::f32, ctx, needed));
  folder.write("config.json", replaced(std::string(tiny_config), "\"hidden_size\": 24", "\"hidden_size\": 48"));
  CHECK_THROWS_AS(require_memory<Tiny>(folder.path(), work, KeyFormat::f32, ctx, needed), config_error);
}

TEST_CASE("bytes are written with the unit that people read") {
  CHECK(mllama::detail::readable_bytes(0) == "0.0 kB");
  CHECK(mllama::detail::readable_bytes(1234) == "1.2 kB");
  CHECK(mllama::detail::readable_bytes(7'180'000'000) == "7.2 GB");
  CHECK(mllama::detail::readable_bytes(500'000'000) == "500.0 MB");
}
