// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <fstream>
#include <iterator>
#include <string>

#include <mllama/models/mllama/describe.hpp>
#include <mllama/models/mllama/mllama.hpp>

using namespace mllama;

TEST_CASE("the tree of 11B Instruct is the published one, byte for byte") {
  std::ifstream file(MLLAMA_TEST_DATA "/unit/models/module_tree.txt", std::ios::binary);
  const std::string published{std::istreambuf_iterator<char>(file), {}};
  REQUIRE(published.size() > 10000);
  CHECK(describe<Llama32Vision11B>() == published);
}

TEST_CASE("the tree of the language model alone is its part of the published one") {
  constexpr Llama32Vision11B model{};
  const std::string expected = describe<Llama32Vision11B>();
  std::string tree = describe(model.language_model);
  CHECK(tree.starts_with(
      "MllamaForCausalLM(\n  (model): MllamaTextModel(\n    (embed_tokens): Embedding(128264, 4096, padding_idx=128004)\n"));
  for (std::size_t at = 0; (at = tree.find('\n', at)) + 1 < tree.size();) tree.insert(++at, "  ");
  CHECK(expected.find("  (language_model): " + tree) != std::string::npos);
  CHECK(describe(model.language_model, TreeDetail::sizes).find("total: 395 tensors, 9 775 192 080 parameters, ") !=
        std::string::npos);
}

TEST_CASE("with sizes, the last line has the totals") {
  const std::string tree = describe<Llama32Vision11B>(TreeDetail::sizes);
  CHECK(tree.find("total: 906 tensors, 10 670 220 835 parameters, ") != tree.npos);
  CHECK(tree.find("(q_proj): Linear4bit(in_features=4096, out_features=4096, bias=False)  # 16 777 216 parameters, ") != tree.npos);
  CHECK(tree.find("(norm): MllamaTextRMSNorm((4096,), eps=1e-05)  # 4 096 parameters, 8 192 bytes\n") != tree.npos);
  CHECK(tree.starts_with("MllamaForConditionalGeneration(  # 10 670 220 835 parameters, "));
}

namespace {
struct Leaf {
  static constexpr std::string_view class_name = "Leaf";
  Parameter<F32, 2, 3> weight{};
  static constexpr void visit(auto& self, auto&& member) { member("weight", self.weight); }
};
struct Other : Leaf {
  static constexpr std::string_view class_name = "Other";
};
struct Pair {
  static constexpr std::string_view class_name = "Pair";
  std::array<Leaf, 3> same{};
  Other other{};
  static constexpr void visit(auto& self, auto&& member) {
    member("same", self.same);
    member("other", self.other);
  }
};
}  // namespace

TEST_CASE("any struct with a listing has a tree; equal neighbours of a list are one entry") {
  CHECK(describe<Pair>() ==
        "Pair(\n"
        "  (same): ModuleList(\n"
        "    (0-2): 3 x Leaf(\n"
        "    )\n"
        "  )\n"
        "  (other): Other(\n"
        "  )\n"
        ")\n");
  CHECK(describe<Pair>(TreeDetail::sizes).ends_with("total: 4 tensors, 24 parameters, 48 bytes\n"));
}
