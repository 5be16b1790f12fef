# SPDX-License-Identifier: MIT
# Everything is off for those who use the library from their own project. The presets say what developers build.
option(MLLAMA_BUILD_TESTS "Build the tests" OFF)
option(MLLAMA_TEST_11B "With the tests and programs: one that makes and runs an 11B model, with 12 GB of memory and 10 GB of disk" OFF)
option(MLLAMA_GROUP_TESTS "Compile several files of tests at once: all sooner, one later" OFF)
option(MLLAMA_BUILD_FUZZERS "With the tests: build the fuzzers, with Clang" OFF)
option(MLLAMA_BUILD_BENCHMARKS "Build the benchmarks" OFF)
option(MLLAMA_BUILD_EXAMPLES "Build the programs in examples/" OFF)
option(MLLAMA_NATIVE "Compile our own programs for the processor of this machine" OFF)
option(MLLAMA_WITH_CUDA "Require nvcc, and compile all headers as CUDA sources" OFF)
set(MLLAMA_MODELS "" CACHE STRING "config.json files, or NAME=config.json, of the models that the programs know beside the built-in ones")
