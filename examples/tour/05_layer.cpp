#include <cstdio>
#include <mllama/models/mllama/describe.hpp>
#include <mllama/models/mllama/text.hpp>

using namespace mllama;

struct Small : TextConfig {
  static constexpr int vocab = 100, image_token = 100, hidden = 64, inner = 160, heads = 4, kv_heads = 2, layers = 6;
  static constexpr std::array cross{2, 4};  // these look at pictures
};

int main() {
  std::fputs(describe<SelfAttentionLayer<Small>>().c_str(), stdout);
  std::printf("%d layers of text alone, %d that look at pictures\n", static_cast<int>(TextShape<Small>::self_layers),
              static_cast<int>(TextShape<Small>::cross_layers));
}
