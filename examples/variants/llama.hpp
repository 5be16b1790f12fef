// SPDX-License-Identifier: MIT
#pragma once

#include <mllama/models/mllama/llama.hpp>

/// The text model alone: Llama-3.2-1B, whose head is its embedding.
struct LlamaText1B : mllama::LlamaConfig {
  static constexpr int vocab = 128256, hidden = 2048, inner = 8192, heads = 32, kv_heads = 8, layers = 16;
  static constexpr mllama::RopeScaling rope_scaling{.factor = 32};
};
struct Llama32_1B : mllama::Llama<LlamaText1B> {
  static constexpr std::string_view name = "llama-3.2-1b-instruct";
};
