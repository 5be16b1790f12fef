// SPDX-License-Identifier: MIT
// A model of one's own, with random weights: another MLP width, other cross-attention layers, and a small vision model.
#include <mllama/mllama.hpp>

#include <cstdio>

struct MyVision : mllama::Vision560 {
  static constexpr int image = 56, hidden = 320, inner = 640, heads = 4, layers = 4, global_layers = 2;
  static constexpr std::array intermediate{1, 3};
};
struct MyText : mllama::Text11B {
  static constexpr int hidden = 512, inner = 3000, heads = 8, layers = 6, vocab = 1000, image_token = 1000;
  static constexpr std::array cross{1, 2, 5};
};
struct MyModel : mllama::Mllama<MyVision, MyText> {};

int main() {
  mllama::Context ctx;
  const auto mine = mllama::random_weights<MyModel>();
  const auto picture = mllama::encode_picture(*mine.model, mllama::ImageProcessor({.tile = 56}), mllama::Image(90, 60), ctx);
  mllama::Session session(*mine.model, ctx);
  const std::int32_t prompt[]{1, MyText::image_token, 2, 3};
  const auto logits = session.append(prompt, {&picture, 1});
  std::printf("%s%zu logits, the first is %f\n", mllama::describe(*mine.model).c_str(), logits.size(), logits[0]);
}
