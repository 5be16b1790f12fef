// SPDX-License-Identifier: MIT
#pragma once

#include <cstdio>
#include <exception>
#include <string>

#include <CLI/CLI.hpp>

#include <mllama/core/check.hpp>
#include <mllama/models/mllama/config.hpp>

namespace support {

/// Reads the arguments, then runs `body`. Whatever goes wrong, in either, becomes one line on stderr and exit status 1.
template <class Body>
int run(CLI::App& app, int argc, char** argv, Body&& body) {
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

}  // namespace support
