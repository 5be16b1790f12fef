// SPDX-License-Identifier: MIT
// convert: puts the 4-bit codes of a model folder into the order of a kernel, or back.

#include <cstdio>
#include <string>

#include <CLI/CLI.hpp>

#include <mllama/io/pack.hpp>

#include "support/command_line.hpp"
#include "support/progress.hpp"
#include "support/terminal.hpp"

namespace {

struct Arguments {
  std::string model, out, pack;
  bool unpack = false;
};

void run(const Arguments& arguments) {
  mllama::check(arguments.unpack != (arguments.pack == "nf4x8"), [&] {
    return mllama::Fault{.field = "--pack",
                         .expected = "nf4x8, or --unpack without it",
                         .found = arguments.pack.empty() ? "neither" : arguments.pack};
  });
  support::Progress progress(support::Terminal::of_stderr());
  progress.begin("Converting");
  const auto report = mllama::repack_folder(arguments.model, arguments.out,
                                            arguments.unpack ? mllama::Repacking::unpack : mllama::Repacking::pack, [] {});
  progress.end();
  std::printf("%zu matrices %s", report.matrices, arguments.unpack ? "unpacked" : "packed");
  if (report.left != 0) std::printf(", %zu left as they are: their rows are not in eights, or blocks span rows", report.left);
  std::printf("\n");
}

}  // namespace

int main(int argc, char** argv) {
  Arguments arguments;
  CLI::App app("Writes a model folder anew with its NF4 codes in the order in which a kernel reads them, or back.", "convert");
  app.add_option("--model", arguments.model, "folder")->required();
  app.add_option("--out", arguments.out, "folder to write; it appears when it is complete")->required();
  app.add_option("--pack", arguments.pack, "nf4x8: eight rows at a time, for AVX2 and later; the folder is for this library only");
  app.add_flag("--unpack", arguments.unpack, "back to what bitsandbytes reads: the same bytes");
  return support::run(app, argc, argv, [&] { run(arguments); });
}
