// SPDX-License-Identifier: MIT
// quantize: writes a model folder anew in another format, and says what that does to each module.

#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include <CLI/CLI.hpp>

#include <mllama/generate/quantize.hpp>

#include "support/adapters.hpp"
#include "support/command_line.hpp"
#include "support/progress.hpp"
#include "support/summary.hpp"
#include "support/terminal.hpp"

namespace {

struct Arguments {
  std::string model, out;
  std::vector<std::string> rules, adapters;
  mllama::QuantizeOptions options;
};

/// `PATTERN=FORMAT`
mllama::QuantizeOptions::Rule rule_of(const std::string& text) {
  const std::size_t equals = text.rfind('=');
  mllama::check(equals != text.npos && equals != 0,
                [&] { return mllama::Fault{.field = "--rule", .expected = "PATTERN=FORMAT", .found = text}; });
  return {text.substr(0, equals), text.substr(equals + 1)};
}

void print_line(const mllama::QuantizationError& error) {
  std::printf("%-4s  %9.2e  %9.2e  %9.2e in %-9zu %11zu  %s\n", std::string(error.format).c_str(), error.relative,
              double{error.largest}, error.worst_relative, error.worst_block, error.elements, error.tensor.c_str());
}

/// All tensors, then those that lost most.
void print(std::vector<mllama::QuantizationError> errors) {
  if (errors.empty()) return;
  std::printf("to    error      largest    worst block            elements     tensor\n");
  for (const auto& error : errors) print_line(error);
  std::ranges::sort(errors, std::greater<>{}, &mllama::QuantizationError::worst_relative);
  errors.resize(std::min<std::size_t>(errors.size(), 10));
  std::printf("\nthe worst blocks are in\n");
  for (const auto& error : errors) print_line(error);
  std::printf(
      "\nerror: root mean square of the differences over that of the elements; of a block: its 64 (--block) elements, of\n"
      "8 bits a row, of floats 2^18 elements.\n");
}

void run(Arguments& arguments) {
  for (const std::string& rule : arguments.rules) arguments.options.rules.push_back(rule_of(rule));
  for (const std::string& text : arguments.adapters) {
    const support::AdapterArgument adapter = support::adapter_argument(text);
    arguments.options.adapters.push_back({adapter.folder, adapter.scale});
  }
  const support::Stopwatch watch;
  support::Progress progress(support::Terminal::of_stderr());
  mllama::Quantizer quantizer(arguments.model, arguments.out, arguments.options);
  for (const std::string& notice : quantizer.notices()) support::write_stderr(notice + '\n');
  constexpr mllama::Tap tensor{"tensors"};
  progress.begin("Quantising", tensor.name, quantizer.size());
  const auto errors = quantizer.run([&] { progress(tensor, 0); });
  progress.end();
  print(errors);
  const double seconds = watch.seconds(), megabytes = static_cast<double>(quantizer.tensor_bytes()) / 1e6;
  std::fprintf(stderr, "%zu tensors, %.1f MB in %.1f s, %.0f MB of memory\n", quantizer.size(), megabytes, seconds,
               static_cast<double>(support::peak_memory()) / 1e6);
}

}  // namespace

int main(int argc, char** argv) {
  Arguments arguments;
  mllama::QuantizeOptions& options = arguments.options;
  CLI::App app("Writes a model folder anew with its linear layers in 4 or 8 bits, or as floats again, and reports the errors.",
               "quantize");
  app.add_option("--model", arguments.model, "folder as Hugging Face or, in safetensors, Meta saves it")->required();
  app.add_option("--out", arguments.out, "folder to write; it appears when it is complete")->required();
  app.add_option("--format,--to", options.format, "nf4, fp4, int8, bf16, f16 or f32; a float format is that of all tensors")
      ->capture_default_str();
  app.add_flag("--nested", options.nested, "quantise the scales of 4-bit blocks, too: 4.13 bits for each weight, not 4.5");
  app.add_option("--block", options.block, "elements that share a scale, 32 to 4096")->capture_default_str();
  app.add_option("--skip", options.skip,
                 "modules that stay as they are, by their last name, a part of their path, or all of it, instead of lm_head")
      ->type_name("PATTERN...");
  app.add_option("--rule", arguments.rules, "another format for some modules; the first rule that fits counts")
      ->type_name("PATTERN=FORMAT...");
  app.add_option("--adapter", arguments.adapters, "LoRA adapter of PEFT to merge first; may be repeated")
      ->type_name("DIR[=SCALE]")
      ->allow_extra_args(false);
  app.add_option("--threads", options.threads, "0: all")->capture_default_str();
  return support::run(app, argc, argv, [&] { run(arguments); });
}
