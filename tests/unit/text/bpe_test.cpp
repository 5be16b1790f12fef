// SPDX-License-Identifier: MIT
#include <mllama/text/bpe.hpp>

#include <doctest/doctest.h>

#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

using namespace mllama;

namespace {

using Ids = std::vector<std::int32_t>;

/// A random vocabulary over a few letters, each merge making a token of earlier ones.
struct Example {
  std::vector<std::string> tokens;
  std::vector<std::pair<int, int>> merges;
  std::vector<int> merged;

  Example(std::mt19937& random, int letters, int count) {
    for (int i = 0; i < letters; ++i) tokens.emplace_back(1, static_cast<char>('a' + i));
    std::map<std::string, int> known;
    for (int i = 0; i < letters; ++i) known[tokens[static_cast<std::size_t>(i)]] = i;
    for (int i = 0; i < count; ++i) {
      const auto pick = [&] { return static_cast<int>(random() % tokens.size()); };
      const int left = pick(), right = pick();
      const std::string both = tokens[static_cast<std::size_t>(left)] + tokens[static_cast<std::size_t>(right)];
      if (both.size() > 12) continue;
      if (known.emplace(both, static_cast<int>(tokens.size())).second) tokens.push_back(both);
      merges.emplace_back(left, right);
      merged.push_back(known[both]);
    }
  }

  [[nodiscard]] BytePairMerger merger() const {
    BytePairMerger m(tokens.size(), merges.size());
    for (std::size_t i = 0; i < tokens.size(); ++i) REQUIRE(m.add_token(tokens[i], static_cast<int>(i)));
    for (std::size_t i = 0; i < merges.size(); ++i)
      REQUIRE(m.add_merge(merges[i].first, merges[i].second, merged[i], static_cast<int>(i)));
    return m;
  }

  /// The definition, word by word.
  [[nodiscard]] Ids encode(const std::string& text) const {
    std::map<std::pair<int, int>, std::size_t> rank;
    for (std::size_t i = 0; i < merges.size(); ++i) rank[merges[i]] = i;
    Ids ids;
    for (const char c : text) ids.push_back(c - 'a');
    for (;;) {
      std::size_t best = merges.size(), at = 0;
      for (std::size_t i = 0; i + 1 < ids.size(); ++i)
        if (const auto found = rank.find({ids[i], ids[i + 1]}); found != rank.end() && found->second < best)
          best = found->second, at = i;
      if (best == merges.size()) return ids;
      ids[at] = merged[best];
      ids.erase(ids.begin() + static_cast<std::ptrdiff_t>(at) + 1);
    }
  }
};

}  // namespace

TEST_CASE("merging follows the definition") {
  const std::uint32_t seed = 20260;
  INFO("seed ", seed);
  std::mt19937 random(seed);
  BytePairMerger::Scratch scratch;
  for (int round = 0; round < 60; ++round) {
    const int letters = 1 + static_cast<int>(random() % 4);
    const Example example(random, letters, 40);
    const BytePairMerger merger = example.merger();
    for (int i = 0; i < 20; ++i) {
      std::string text(random() % 60, 'a');
      for (char& c : text) c = static_cast<char>('a' + static_cast<int>(random() % static_cast<unsigned>(letters)));
      Ids ids{-7};
      CHECK(merger.encode(text, scratch, ids) == text.size());
      Ids expected = example.encode(text);
      expected.insert(expected.begin(), -7);
      CHECK(ids == expected);
    }
  }
}

TEST_CASE("a byte without token is named and appends nothing") {
  BytePairMerger merger(2, 0);
  CHECK(merger.add_token("a", 0));
  CHECK_FALSE(merger.add_token("a", 1));
  BytePairMerger::Scratch scratch;
  Ids ids;
  CHECK(merger.encode("aab", scratch, ids) == 2);
  CHECK(ids.empty());
  CHECK(merger.encode("", scratch, ids) == 0);
  CHECK(merger.find("a") == 0);
  CHECK_FALSE(merger.find("b"));
  CHECK_FALSE(BytePairMerger().find("b"));
}

TEST_CASE("a long piece takes n log n") {
  std::mt19937 random(7);
  const Example example(random, 2, 60);
  const BytePairMerger merger = example.merger();
  BytePairMerger::Scratch scratch;
  for (const unsigned letters : {1U, 2U}) {
    std::string text(400'000, 'a');
    for (char& c : text) c = static_cast<char>('a' + static_cast<int>(random() % letters));
    Ids ids;
    CHECK(merger.encode(text, scratch, ids) == text.size());
    std::string joined;
    for (const auto id : ids) joined += example.tokens[static_cast<std::size_t>(id)];
    CHECK(joined == text);
  }
}

TEST_CASE("keys with equal hashes are refused before searches become long") {
  struct Slot {
    using Key = int;
    int key = -1;
    static std::uint64_t hash(int) noexcept { return 42; }
    [[nodiscard]] bool holds(int other) const noexcept { return key == other; }
    [[nodiscard]] bool empty() const noexcept { return key < 0; }
  };
  detail::HashTable<Slot> table(10'000);
  int entered = 0;
  for (; entered < 10'000; ++entered) {
    Slot* const slot = table.find_or_empty(entered);
    if (slot == nullptr) break;
    slot->key = entered;
  }
  CHECK(entered > 100);
  CHECK(entered < 1000);
  for (int key = 0; key < entered; ++key) CHECK(table.find(key)->key == key);
  CHECK(table.find(entered) == nullptr);
}
