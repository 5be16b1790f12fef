// SPDX-License-Identifier: MIT
// verify: checks a model folder completely, and prints a line for each problem.

#include <cstddef>
#include <cstdio>
#include <string>

#include <CLI/CLI.hpp>

#include <mllama/core/check.hpp>
#include <mllama/generate/verify.hpp>

#include "models.hpp"
#include "support/command_line.hpp"

namespace {

using Choices = mllama::JoinModels<mllama::models::ModelList, mllama::ReleasedModels>;

/// False if there is a problem.
bool verify(const std::string& folder, mllama::VerifyDepth depth) {
  const mllama::Verification found = mllama::verify_folder(folder, Choices{}, depth);
  for (const std::string& problem : found.problems) std::printf("%s\n", problem.c_str());
  for (const std::string& notice : found.notices) std::printf("note: %s\n", notice.c_str());
  const std::size_t count = found.problems.size();
  const std::string problems = count == 0 ? "no problem" : count == 1 ? "1 problem" : mllama::concat(count, " problems");
  std::printf("%s: %zu tensors, %zu bytes, %s\n", folder.c_str(), found.tensors, found.bytes, problems.c_str());
  return count == 0;
}

}  // namespace

int main(int argc, char** argv) {
  std::string folder;
  bool quick = false, good = true;
  CLI::App app("Checks a model folder without running it: files, tensors, configuration, tokenizer. Status 1 if anything is wrong.",
               "verify");
  app.add_option("DIR", folder, "folder as Hugging Face saves it, or in Meta's layout")->required();
  app.add_flag("--quick", quick, "do not read float tensors, which are otherwise searched for NaN and infinities");
  const int status = support::run(
      app, argc, argv, [&] { good = verify(folder, quick ? mllama::VerifyDepth::quick : mllama::VerifyDepth::complete); });
  return good ? status : 1;
}
