// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string_view>
#include <vector>

namespace mllama {

namespace detail {

/// Every input bit reaches the upper and lower half; hostile tables are caught by the limit on probes, not here.
constexpr std::uint64_t mix(std::uint64_t x) noexcept {
  x *= 0x9E3779B97F4A7C15U;
  x ^= x >> 32U;
  x *= 0xD6E8FEB86659FD93U;
  return x ^ x >> 32U;
}

inline std::uint64_t hash_bytes(std::string_view bytes) noexcept {
  std::uint64_t hash = bytes.size(), word = 0;
  for (; bytes.size() >= sizeof word; bytes.remove_prefix(sizeof word)) {
    std::memcpy(&word, bytes.data(), sizeof word);
    hash = mix(hash ^ word);
  }
  word = 0;
  for (const char c : bytes) word = word << 8U | static_cast<unsigned char>(c);
  return mix(hash ^ word);
}

/// Open addressing with linear probing, at most half full. A slot has a `Key`, `hash(key)`, `holds(key)` and `empty()`. No element
/// lies further than `longest_probe` from its place, so keys made to collide fail to enter instead of making every search long.
template <class Slot>
class HashTable {
 public:
  using Key = typename Slot::Key;

  explicit HashTable(std::size_t count = 0) : slots_(std::bit_ceil(2 * count + 1)) {}

  /// The slot that holds `key`, or null.
  [[nodiscard]] const Slot* find(const Key& key) const noexcept {
    const Slot* const slot = place(key);
    return slot == nullptr || slot->empty() ? nullptr : slot;
  }

  /// The slot that holds `key`, or the empty one where it belongs; null if the probes are used up.
  [[nodiscard]] Slot* find_or_empty(const Key& key) noexcept { return const_cast<Slot*>(place(key)); }

 private:
  static constexpr int longest_probe = 500;

  [[nodiscard]] const Slot* place(const Key& key) const noexcept {
    const std::size_t mask = slots_.size() - 1;
    std::size_t at = static_cast<std::size_t>(Slot::hash(key)) & mask;
    for (int probes = 0; probes < longest_probe; ++probes, at = (at + 1) & mask)
      if (slots_[at].empty() || slots_[at].holds(key)) return &slots_[at];
    return nullptr;
  }

  std::vector<Slot> slots_;
};

}  // namespace detail

/// Byte-pair encoding of one piece of text. Tokens are byte strings; a merge says that two neighbouring tokens become one, and
/// its rank is its place in the list. A token keeps a view of its bytes: the vocabulary outlives this object.
/// Source:  Sennrich et al. 2016 (arXiv:1508.07909); tokenizers' `BPE` without dropout, affixes and unknown token.
class BytePairMerger {
 public:
  using Id = std::int32_t;

  BytePairMerger() = default;
  BytePairMerger(std::size_t tokens, std::size_t merges) : tokens_(tokens), merges_(merges) {
    std::fill(std::begin(bytes_), std::end(bytes_), none);
  }

  /// False if `bytes` is a token already, or one of too many with like hashes.
  [[nodiscard]] bool add_token(std::string_view bytes, Id id) {
    const HashedBytes key(bytes);
    TokenSlot* const slot = tokens_.find_or_empty(key);
    if (slot == nullptr || !slot->empty()) return false;
    *slot = {bytes, key.tag(), id};
    if (bytes.size() == 1) bytes_[static_cast<unsigned char>(bytes.front())] = id;
    return true;
  }

  /// False if too many merges have like hashes. Of equal pairs the last one counts, as in tokenizers.
  [[nodiscard]] bool add_merge(Id left, Id right, Id merged, std::int32_t rank) {
    MergeSlot* const slot = merges_.find_or_empty({left, right});
    if (slot == nullptr) return false;
    *slot = {{left, right}, merged, rank};
    return true;
  }

  [[nodiscard]] std::optional<Id> find(std::string_view bytes) const noexcept {
    const TokenSlot* const slot = tokens_.find(HashedBytes(bytes));
    if (slot == nullptr) return std::nullopt;
    return slot->id;
  }

  /// Working memory that calls may share one after the other.
  struct Scratch;

  /// Appends the tokens of `piece`: its bytes, of which the neighbours with the lowest rank are merged again and again, leftmost
  /// first. O(n log n) for n bytes.
  /// Returns the position of the first byte that is no token, having appended nothing; piece.size() if all went well.
  std::size_t encode(std::string_view piece, Scratch& scratch, std::vector<Id>& out) const;

 private:
  static constexpr Id none = -1;

  struct HashedBytes {
    std::string_view bytes;
    std::uint64_t hash;
    explicit HashedBytes(std::string_view b) noexcept : bytes(b), hash(detail::hash_bytes(b)) {}
    [[nodiscard]] std::uint32_t tag() const noexcept { return static_cast<std::uint32_t>(hash >> 32U); }
  };
  struct TokenSlot {
    using Key = HashedBytes;
    std::string_view bytes;
    std::uint32_t tag = 0;  // spares the look at most bytes of other tokens
    Id id = none;
    static std::uint64_t hash(const Key& key) noexcept { return key.hash; }
    [[nodiscard]] bool holds(const Key& key) const noexcept { return tag == key.tag() && bytes == key.bytes; }
    [[nodiscard]] bool empty() const noexcept { return id == none; }
  };
  struct Pair {
    Id left = none, right = none;
    bool operator==(const Pair&) const = default;
  };
  struct MergeSlot {
    using Key = Pair;
    Pair pair;
    Id merged = none;
    std::int32_t rank = 0;
    static std::uint64_t hash(Pair key) noexcept {
      return detail::mix(std::uint64_t{static_cast<std::uint32_t>(key.left)} << 32U | static_cast<std::uint32_t>(key.right));
    }
    [[nodiscard]] bool holds(Pair key) const noexcept { return pair == key; }
    [[nodiscard]] bool empty() const noexcept { return merged == none; }
  };

  detail::HashTable<TokenSlot> tokens_;
  detail::HashTable<MergeSlot> merges_;
  Id bytes_[256] = {};
};

struct BytePairMerger::Scratch {
  /// A doubly linked list in the order of the text. A symbol that was merged into its left neighbour has no id.
  struct Symbol {
    Id id;
    std::uint32_t previous, next;
  };
  struct Candidate {
    std::int32_t rank;
    std::uint32_t at;
    Pair pair;
    Id merged;
    /// A heap of the standard library has its greatest element on top.
    bool operator<(const Candidate& other) const noexcept { return rank != other.rank ? rank > other.rank : at > other.at; }
  };
  std::vector<Symbol> symbols;
  std::vector<Candidate> heap;
};

inline std::size_t BytePairMerger::encode(std::string_view piece, Scratch& scratch, std::vector<Id>& out) const {
  auto& [symbols, heap] = scratch;
  symbols.clear();
  heap.clear();
  const auto size = static_cast<std::uint32_t>(piece.size());
  for (std::uint32_t i = 0; i < size; ++i) {
    const Id id = bytes_[static_cast<unsigned char>(piece[i])];
    if (id == none) return i;
    symbols.push_back({id, i - 1, i + 1});
  }

  const auto candidate = [&](std::uint32_t at) -> bool {  // the pair that begins at `at` joins the heap's end
    const std::uint32_t next = symbols[at].next;
    if (next >= size) return false;
    const MergeSlot* const merge = merges_.find({symbols[at].id, symbols[next].id});
    if (merge == nullptr) return false;
    heap.push_back({merge->rank, at, merge->pair, merge->merged});
    return true;
  };
  for (std::uint32_t i = 0; i < size; ++i) candidate(i);
  std::make_heap(heap.begin(), heap.end());

  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end());
    const Scratch::Candidate best = heap.back();
    heap.pop_back();
    Scratch::Symbol& left = symbols[best.at];
    if (left.id != best.pair.left || left.next >= size || symbols[left.next].id != best.pair.right)
      continue;  // merged otherwise meanwhile
    Scratch::Symbol& right = symbols[left.next];
    left.id = best.merged;
    left.next = right.next;
    right.id = none;
    if (left.next < size) symbols[left.next].previous = best.at;
    if (candidate(best.at)) std::push_heap(heap.begin(), heap.end());
    if (best.at != 0 && candidate(left.previous)) std::push_heap(heap.begin(), heap.end());
  }
  for (std::uint32_t i = 0; i < size; i = symbols[i].next) out.push_back(symbols[i].id);
  return size;
}

}  // namespace mllama
