// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include <mllama/core/check.hpp>
#include <mllama/core/context.hpp>
#include <mllama/generate/padded.hpp>
#include <mllama/generate/sampler.hpp>
#include <mllama/generate/session.hpp>

namespace mllama {

/// Continues every row of a padded batch, as transformers' `generate` does: a row ends after any end token, which is kept; the
/// batch ends when all rows have, or at the limit. Row b draws with seed + b. Padding may be on either side.
/// Returns:  the new tokens of each row, without what transformers appends to rows that end early
/// Errors:   input_error, also if a row has no real token
template <class Model, class Ctx>
[[nodiscard]] std::vector<std::vector<std::int32_t>> generate(PaddedRun<Model>& run, const PaddedInputs& inputs,
                                                              const SamplingSettings& settings, std::uint64_t seed,
                                                              const StopRules& stop, Ctx& ctx) {
  constexpr std::size_t vocab = Model::Text::vocab;
  struct Row {
    Sampler sampler;
    std::vector<std::int32_t> history, generated;  ///< history: with the padding, whose ids the repetition penalty counts
    std::size_t last = 0;                          ///< its last real position
    bool done = false;
  };
  constexpr auto none = static_cast<std::size_t>(-1);
  const auto prompt = run.prompt(inputs, ctx);
  std::vector<Row> rows;
  for (std::size_t b = 0; b < inputs.batch; ++b) {
    const auto ids = inputs.input_ids.subspan(b * inputs.length, inputs.length);
    rows.push_back({Sampler(settings, seed + b), {ids.begin(), ids.end()}, {}, none, stop.max_new_tokens == 0});
  }
  for (const std::size_t at : run.padded_rows())
    rows[at / inputs.length].last = at % inputs.length;  // ascending: the last one stays
  for (std::size_t b = 0; b < rows.size(); ++b) {
    check(rows[b].last != none, [b] {
      return Fault{.field = "attention_mask", .expected = "a real token in every row", .found = concat("none in row ", b)};
    });
  }

  const auto choose = [&](Row& row, std::span<const float> logits) {
    if (row.done) return;
    const std::int32_t id = row.sampler(logits, row.history);
    row.history.push_back(id);
    row.generated.push_back(id);
    row.done = std::ranges::find(stop.eos, id) != stop.eos.end() || row.generated.size() == stop.max_new_tokens;
  };
  for (std::size_t b = 0; b < rows.size(); ++b)
    choose(rows[b], prompt.flat().subspan((b * inputs.length + rows[b].last) * vocab, vocab));
  std::vector<std::int64_t> next(rows.size());
  while (!std::ranges::all_of(rows, &Row::done)) {
    for (std::size_t b = 0; b < rows.size(); ++b)
      next[b] = rows[b].history.back();  // a row that has ended repeats its last token, unread
    const auto logits = run.step(next, ctx);
    for (std::size_t b = 0; b < rows.size(); ++b) choose(rows[b], logits.flat().subspan(b * vocab, vocab));
  }
  std::vector<std::vector<std::int32_t>> generated;
  for (Row& row : rows) generated.push_back(std::move(row.generated));
  return generated;
}

}  // namespace mllama
