// SPDX-License-Identifier: MIT
// A model of one's own, with random weights: Pocket with a wider MLP and other cross-attention layers. Everything else follows.
#include <cstdio>

#include <mllama/mllama.hpp>

#include "models.hpp"

struct MyText : mllama::models::PocketText {
  static constexpr int inner = 320;
  static constexpr std::array cross{1, 3, 5};
};
struct MyModel : mllama::Mllama<mllama::models::PocketVision, MyText> {};

int main() {
  mllama::Context ctx;
  const auto mine = mllama::random_weights<MyModel>();
  const auto picture = mllama::encode_picture(*mine.model, mllama::ImageProcessor({.tile = 84}), mllama::Image(90, 60), ctx);
  mllama::Session session(*mine.model, ctx);
  std::printf("the first logit is %f\n", session.append(std::array{1, MyText::image_token, 2}, {&picture, 1})[0]);
}
