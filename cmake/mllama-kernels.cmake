# SPDX-License-Identifier: MIT
# mllama_add_kernels(NAME): a static library with the bodies of matrix products and of attention. What links it has them from there
# instead of compiling them in each of its sources: for programs of several sources. Give it the same flags, -march above all.
function(mllama_add_kernels name)
  set(sources)
  foreach(compute F32 Int16 BF16 Int8)
    set(content "#include <mllama/kernels/matmul.hpp>\nnamespace mllama::kernels::detail {\nMLLAMA_PRODUCTS(, ${compute})\n}\n")
    list(APPEND sources "${CMAKE_CURRENT_BINARY_DIR}/${name}/products_${compute}.cpp")
    file(GENERATE OUTPUT "${CMAKE_CURRENT_BINARY_DIR}/${name}/products_${compute}.cpp" CONTENT "${content}")
  endforeach()
  set(content "#include <mllama/kernels/attention.hpp>\nnamespace mllama::kernels::detail {\n")
  string(APPEND content "template const isa::AttentionBody* attention_body_of<arch::native>(InstructionSet);\n}\n")
  file(GENERATE OUTPUT "${CMAKE_CURRENT_BINARY_DIR}/${name}/attention.cpp" CONTENT "${content}")
  add_library(${name} STATIC ${sources} "${CMAKE_CURRENT_BINARY_DIR}/${name}/attention.cpp")
  target_link_libraries(${name} PUBLIC mllama::mllama)
  target_compile_definitions(${name} PUBLIC MLLAMA_ELSEWHERE)
  set_target_properties(${name} PROPERTIES CXX_EXTENSIONS OFF)
endfunction()
