#include <cstdio>
#include <mllama/mllama.hpp>

struct WideText : mllama::Text11B {                  // what is not said here is as in Llama-3.2-11B-Vision
  static constexpr int inner = 16384;                // a wider MLP
  static constexpr std::array cross{3, 13, 23, 33};  // fewer layers look at the picture
  // static constexpr int heads = 30;                // error: TextConfig: hidden must be a multiple of heads
};
struct Wide : mllama::Mllama<mllama::Vision560, WideText> {};

int main(int, char** argv) {
  mllama::Context ctx;                             // the best back end of this processor, on all cores
  const auto model = mllama::load<Wide>(argv[1]);  // a folder as Hugging Face saves it
  mllama::Chat chat{model, ctx};
  chat.user(mllama::read_image(argv[2]), "What is in this picture?");
  chat.answer([](std::string_view piece) { std::fwrite(piece.data(), 1, piece.size(), stdout); });
}
