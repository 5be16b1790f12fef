// SPDX-License-Identifier: MIT
#pragma once

#include <utility>
#include <vector>

#include "tiny.hpp"

namespace mllama_test {

using Picture = mllama::EncodedImage<TinyText>;
using States = mllama::Tensor<float, mllama::Tokens, mllama::Dim<TinyText::hidden>>;

/// A sequence whose rows see all real tiles of its pictures from row `seeing` on, and nothing before.
class Sequence {
 public:
  explicit Sequence(std::vector<std::int32_t> ids, std::vector<const Picture*> pictures = {}, std::size_t seeing = 0)
      : ids_(std::move(ids)), pictures_(std::move(pictures)), seeing_(seeing) {}

  /// A copy starts anew.
  Sequence(const Sequence& other) : Sequence(other.ids_, other.pictures_, other.seeing_) {}

  [[nodiscard]] std::size_t left() const { return ids_.size() - cache_.length(); }

  /// The next `rows` rows, which are added to the ids and positions of a batch.
  mllama::TextSequence<TinyText> next(std::size_t rows, std::vector<std::int32_t>& ids, std::vector<std::int32_t>& positions) {
    ranges_.clear();
    for (const bool real : {false, true}) {  // set 0: everything; set 1: the real tiles
      for (std::uint32_t i = 0; i < pictures_.size(); ++i) {
        const std::size_t end = real ? pictures_[i]->tiles * pictures_[i]->tile_positions : pictures_[i]->block(0).count;
        ranges_.push_back({i, 0, static_cast<std::uint32_t>(end)});
      }
    }
    const auto count = static_cast<std::uint32_t>(pictures_.size());
    sets_ = {0, count, 2 * count};
    set_of_row_.clear();
    sees_.clear();
    for (std::size_t r = cache_.length(); r < cache_.length() + rows; ++r) {
      ids.push_back(ids_[r]);
      positions.push_back(static_cast<std::int32_t>(r));
      sees_.push_back(r >= seeing_ ? 1 : 0);
      set_of_row_.push_back(sees_.back());
    }
    return {rows, &cache_, pictures_, {set_of_row_, sets_, ranges_}, sees_};
  }

 private:
  std::vector<std::int32_t> ids_;
  std::vector<const Picture*> pictures_;
  std::size_t seeing_;
  mllama::KeyValueCache<TinyText> cache_;
  std::vector<std::uint32_t> set_of_row_, sets_;
  std::vector<mllama::kernels::KeyRange> ranges_;
  std::vector<std::uint8_t> sees_;
};

/// The next rows of several sequences as one batch.
inline States forward(const Tiny& model, std::vector<std::pair<Sequence*, std::size_t>> parts, const mllama::Numerics& numerics,
                      mllama::Context<>& ctx) {
  std::vector<std::int32_t> ids, positions;
  std::vector<mllama::TextSequence<TinyText>> sequences;
  for (const auto& [sequence, rows] : parts) sequences.push_back(sequence->next(rows, ids, positions));
  const auto states = model.forward({ids, positions, sequences}, numerics, ctx);
  return copy(states);
}

inline States forward(const Tiny& model, std::vector<std::pair<Sequence*, std::size_t>> parts,
                      const mllama::Numerics& numerics = {}, unsigned threads = 1) {
  mllama::Context ctx(threads);
  return forward(model, std::move(parts), numerics, ctx);
}

/// All rows of one sequence.
inline States forward(const Tiny& model, Sequence sequence, const mllama::Numerics& numerics = {}, unsigned threads = 1) {
  return forward(model, {{&sequence, sequence.left()}}, numerics, threads);
}

}  // namespace mllama_test
