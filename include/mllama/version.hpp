// SPDX-License-Identifier: MIT
#pragma once

/// The library's version: macros for the preprocessor, and nothing else.
#define MLLAMA_VERSION_MAJOR 0
#define MLLAMA_VERSION_MINOR 1
#define MLLAMA_VERSION_PATCH 0
