// SPDX-License-Identifier: MIT
// tree: prints the module tree of a built-in model, or of a folder with the formats that its files have.

#include <cstdio>
#include <string>
#include <string_view>
#include <type_traits>

#include <CLI/CLI.hpp>

#include <mllama/generate/pretrained.hpp>
#include <mllama/models/mllama/describe.hpp>

#include "models.hpp"
#include "support/command_line.hpp"

namespace {

using Choices = mllama::JoinModels<mllama::models::ModelList, mllama::ReleasedModels>;

/// The tree of the model type of this name; empty if there is none.
template <class... Models>
std::string tree_of_type(std::string_view name, mllama::TreeDetail detail, mllama::Models<Models...>) {
  std::string text;
  ((Models::name == name ? void(text = mllama::describe<Models>(detail)) : void()), ...);
  return text;
}

template <class... Models>
std::string names(mllama::Models<Models...>) {
  std::string all;
  ((all += mllama::concat(all.empty() ? "" : ", ", Models::name)), ...);
  return all;
}

std::string tree(const std::string& model, mllama::TreeDetail detail) {
  std::string text = tree_of_type(model, detail, Choices{});
  if (!text.empty()) return text;
  mllama::check<mllama::input_error>(mllama::detail::exists(model), [&] {
    return mllama::Fault{.field = "MODEL", .expected = mllama::concat("a folder, or one of ", names(Choices{})), .found = model};
  });
  mllama::with_model_of(model, Choices{}, [&]<class Model>(std::type_identity<Model>) {
    const auto loaded = mllama::load_weights<Model>(model);
    text = loaded.model->has_vision() ? mllama::describe(*loaded.model, detail)
                                      : mllama::describe(loaded.model->language_model, detail);
  });
  return text;
}

}  // namespace

int main(int argc, char** argv) {
  std::string model(mllama::Llama32Vision11B::name);
  bool sizes = false;
  CLI::App app("Prints a model's modules as PyTorch does.", "tree");
  app.add_option("MODEL", model, mllama::concat("a folder, or one of ", names(Choices{})))->capture_default_str();
  app.add_flag("--sizes", sizes, "with parameters and bytes of each module, and totals");
  return support::run(app, argc, argv, [&] {
    std::fputs(tree(model, sizes ? mllama::TreeDetail::sizes : mllama::TreeDetail::modules).c_str(), stdout);
  });
}
