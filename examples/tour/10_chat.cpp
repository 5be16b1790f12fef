#include <cstdio>
#include <mllama/generate/chat.hpp>
#include <mllama/io/image.hpp>

#include "models.hpp"  // types of config.json files: mllama_generate_models in CMake

int main(int, char** argv) {
  mllama::Context ctx;
  const auto pocket = mllama::load<mllama::models::Pocket>(argv[1]);  // sizes that differ from the type's are refused
  mllama::Chat chat{pocket, ctx};
  chat.user(mllama::read_image(argv[2]), "What is this?");
  std::puts(chat.answer().c_str());
  chat.user("How many shapes are there?");  // the picture is not encoded again
  std::puts(chat.answer().c_str());
}
