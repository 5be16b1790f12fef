#include <array>
#include <cstdio>
#include <mllama/generate/session.hpp>
#include <mllama/models/mllama/mllama.hpp>
#include <mllama/models/mllama/random.hpp>

struct Eyes : mllama::VisionConfig {
  static constexpr int image = 28, hidden = 16, inner = 32, heads = 2, layers = 3, global_layers = 1;
  static constexpr std::array intermediate{0, 2};  // states that the projector sees, too
};
struct Words : mllama::TextConfig {
  static constexpr int vocab = 50, image_token = 50, hidden = 32, inner = 64, heads = 4, kv_heads = 2, layers = 4;
  static constexpr std::array cross{1, 3};
};
struct Tiny : mllama::Mllama<Eyes, Words> {};

int main() {
  mllama::Context ctx;
  const auto tiny = mllama::random_weights<Tiny>();
  const mllama::ImageProcessor processor({.tile = Eyes::image});
  const auto picture = mllama::encode_picture(*tiny.model, processor, mllama::Image(50, 20), ctx);
  mllama::Session session(*tiny.model, ctx);
  const auto logits = session.append(std::array{1, Words::image_token, 2}, {&picture, 1});
  std::printf("%zu tensors, %zu tiles, %zu logits\n", mllama::count_parameters<Tiny>().tensors, picture->tiles, logits.size());
}
