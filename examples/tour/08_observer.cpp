#include <array>
#include <cstdio>
#include <mllama/generate/session.hpp>
#include <mllama/models/mllama/llama.hpp>
#include <mllama/models/mllama/random.hpp>

using namespace mllama;

struct TinyText : LlamaConfig {
  static constexpr int vocab = 50, hidden = 32, inner = 64, heads = 4, kv_heads = 2, layers = 3;
};
struct Tiny : Llama<TinyText> {};

struct Watcher {  // shown what it wants, by name and by type; without an observer nothing of this is compiled
  static constexpr bool wants(std::string_view name) { return name == "hidden_states" || name == "self_attention"; }

  void operator()(const Tap& tap, const View<const float, Tokens, Dim<32>>& states) {
    std::printf("before layer %zu: %zu rows of 32\n", tap.index, states.rows());
  }
  void operator()(const Tap& tap, const View<const float, Dim<4>, Tokens, Tokens>& shares) {
    std::printf("in layer %zu the first token looks at itself: %.0f %%\n", tap.index, 100 * double{shares.flat()[0]});
  }
};

int main() {
  Context<cpu<>, Watcher> ctx;
  const auto tiny = random_weights<Tiny>();
  Session session(*tiny.model, ctx);
  session.append(std::array{3, 1, 4});
}
