# SPDX-License-Identifier: MIT
# How our own programs are compiled. None of this reaches the users of mllama::mllama.
# Warnings are errors where CMAKE_COMPILE_WARNING_AS_ERROR says so: in CI (presets take it from MLLAMA_WARNINGS_ARE_ERRORS).
add_library(mllama_developer INTERFACE)
target_link_libraries(mllama_developer INTERFACE mllama::mllama)
target_compile_options(mllama_developer INTERFACE
  -Wall -Wextra -Wpedantic -Wconversion -Wsign-conversion -Wshadow
  $<$<CXX_COMPILER_ID:GNU>:-fmax-errors=5 -fconcepts-diagnostics-depth=2 -Wno-restrict>  # GCC 12 sees overlaps inside std::string
  $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized -Wno-array-bounds>  # false alarms that come and go with -march
  $<$<CXX_COMPILER_ID:Clang>:-ferror-limit=5>
  $<$<BOOL:${MLLAMA_NATIVE}>:-march=native>)
target_compile_definitions(mllama_developer INTERFACE $<$<BOOL:${MLLAMA_NATIVE}>:MLLAMA_NATIVE>)

# Compiled once for all programs, and fast whatever the rest is: tests take their time in them.
mllama_add_kernels(mllama_kernels)
target_link_libraries(mllama_kernels PRIVATE mllama_developer)
target_compile_options(mllama_kernels PRIVATE $<IF:$<CONFIG:Debug>,-O1,-O3>)

# mllama_program(NAME SOURCE…): one of our programs, in bin/ of the build folder.
function(mllama_program name)
  add_executable(${name} ${ARGN})
  target_link_libraries(${name} PRIVATE mllama_developer mllama_kernels)
  set_target_properties(${name} PROPERTIES CXX_EXTENSIONS OFF RUNTIME_OUTPUT_DIRECTORY "${PROJECT_BINARY_DIR}/bin")
endfunction()
