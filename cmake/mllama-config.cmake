# SPDX-License-Identifier: MIT
# find_package(mllama) reads this file.
include("${CMAKE_CURRENT_LIST_DIR}/mllama-dependencies.cmake")
if(mllama_missing)
  set(mllama_FOUND FALSE)
  set(mllama_NOT_FOUND_MESSAGE "mllama needs ${mllama_missing}.")
  return()
endif()
include("${CMAKE_CURRENT_LIST_DIR}/mllama-targets.cmake")
include("${CMAKE_CURRENT_LIST_DIR}/mllama-models.cmake")
include("${CMAKE_CURRENT_LIST_DIR}/mllama-kernels.cmake")
