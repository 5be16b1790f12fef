# SPDX-License-Identifier: MIT
# What the headers of mllama include, as the target mllama::dependencies. The project and the installed package both read this
# file. Few systems have CMake packages for all of these, so they are found by a header; set the variable to use another copy.
# `mllama_missing` says, in words, what was not found.
if(TARGET mllama::dependencies)
  return()
endif()

find_package(Threads)
find_path(MLLAMA_XSIMD_INCLUDE_DIR xsimd/xsimd.hpp DOC "Folder of xsimd/xsimd.hpp")
find_path(MLLAMA_STB_INCLUDE_DIR stb/stb_image.h DOC "Folder of stb/stb_image.h")
find_path(MLLAMA_PCRE2_INCLUDE_DIR pcre2.h DOC "Folder of pcre2.h")
find_library(MLLAMA_PCRE2_LIBRARY pcre2-8 DOC "The 8-bit library of PCRE2")
mark_as_advanced(MLLAMA_XSIMD_INCLUDE_DIR MLLAMA_STB_INCLUDE_DIR MLLAMA_PCRE2_INCLUDE_DIR MLLAMA_PCRE2_LIBRARY)

set(mllama_missing "")
foreach(need "Threads_FOUND=a thread library" "MLLAMA_XSIMD_INCLUDE_DIR=xsimd (libxsimd-dev)"
             "MLLAMA_STB_INCLUDE_DIR=stb (libstb-dev)"
             "MLLAMA_PCRE2_INCLUDE_DIR=PCRE2 (libpcre2-dev)" "MLLAMA_PCRE2_LIBRARY=PCRE2's library (libpcre2-dev)")
  string(REGEX MATCH "^([^=]+)=(.+)$" need "${need}")
  if(NOT ${CMAKE_MATCH_1})
    list(APPEND mllama_missing "${CMAKE_MATCH_2}")
  endif()
endforeach()
list(JOIN mllama_missing ", " mllama_missing)
if(mllama_missing)
  return()
endif()

add_library(mllama::dependencies INTERFACE IMPORTED)
target_include_directories(mllama::dependencies SYSTEM INTERFACE
  ${MLLAMA_XSIMD_INCLUDE_DIR} ${MLLAMA_STB_INCLUDE_DIR} ${MLLAMA_PCRE2_INCLUDE_DIR})
target_link_libraries(mllama::dependencies INTERFACE Threads::Threads ${MLLAMA_PCRE2_LIBRARY})
