// SPDX-License-Identifier: MIT
#pragma once

#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <exception>
#include <string>
#include <string_view>

#include <CLI/CLI.hpp>

#include <mllama/core/check.hpp>
#include <mllama/core/context.hpp>
#include <mllama/models/mllama/config.hpp>

namespace support {

/// What the system does with a program that reads what is no longer in a mapped file: the program says so and ends.
inline void end_at_cut_files() {
  struct sigaction action {};
  action.sa_handler = [](int) {
    static constexpr std::string_view text = "a file became shorter, or could not be read, while it was in use\n";
    static_cast<void>(!::write(STDERR_FILENO, text.data(), text.size()));  // one of the few calls that a handler may make
    ::_exit(1);
  };
  ::sigaction(SIGBUS, &action, nullptr);
}

/// Reads the arguments, then runs `body`. Whatever goes wrong, in either, becomes one line on stderr and exit status 1.
template <class Body>
int run(CLI::App& app, int argc, char** argv, Body&& body) {
  end_at_cut_files();
  try {
    app.parse(argc, argv);
    body();
    return 0;
  } catch (const CLI::Success& wish) {  // --help
    return app.exit(wish);
  } catch (const CLI::Error& problem) {
    std::fprintf(stderr, "%s: %s\n", app.get_name().c_str(), mllama::input_error(std::string(problem.what())).what());
  } catch (const std::exception& problem) {
    std::fprintf(stderr, "%s: %s\n", app.get_name().c_str(), problem.what());
  }
  return 1;
}

/// Errors:  input_error if there is no profile of this name.
inline mllama::Numerics numerics_of(const std::string& profile) {
  const auto numerics = mllama::numerics_of(profile);
  mllama::check(numerics.has_value(), [&] {
    return mllama::Fault{.field = "--profile",
                         .expected = "meta, transformers_4_45, transformers_4_55, transformers_4_56 or meta_rows",
                         .found = profile};
  });
  return *numerics;
}

/// Errors:  input_error if there is no precision of this name; `option` is the user's word for it.
inline mllama::Precision precision_of(const std::string& name, std::string_view option = "--precision") {
  const auto precision = mllama::precision_of(name);
  mllama::check(precision.has_value(),
                [&] { return mllama::Fault{.field = std::string(option), .expected = "f32, int16, bf16 or int8", .found = name}; });
  return *precision;
}

/// Errors:  input_error if there is no format of this name.
inline mllama::KeyFormat key_format_of(const std::string& name) {
  const auto format = mllama::key_format_of(name);
  mllama::check(format.has_value(),
                [&] { return mllama::Fault{.field = "--kv", .expected = "f32, bf16, f16 or int8", .found = name}; });
  return *format;
}

/// The processor, in the arithmetic that the user asks for.
using Backend = mllama::cpu<mllama::arch::native, mllama::AnyPrecision>;

}  // namespace support
