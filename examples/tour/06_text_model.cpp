#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <mllama/generate/session.hpp>
#include <mllama/models/mllama/llama.hpp>
#include <mllama/models/mllama/random.hpp>

struct TinyText : mllama::LlamaConfig {
  static constexpr int vocab = 50, hidden = 32, inner = 64, heads = 4, kv_heads = 2, layers = 3;
};
struct Tiny : mllama::Llama<TinyText> {};

int main() {
  mllama::Context ctx;
  const auto tiny = mllama::random_weights<Tiny>();  // the same numbers on every machine
  mllama::Session session(*tiny.model, ctx);         // a sequence with its cache
  session.append(std::array{3, 1, 4});
  const auto logits = session.append(std::array{1, 5});
  std::printf("%zu tokens read, %zu logits, all finite: %s\n", session.ids().size(), logits.size(),
              std::ranges::all_of(logits, [](float x) { return std::isfinite(x); }) ? "yes" : "no");
}
