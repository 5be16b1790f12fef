# SPDX-License-Identifier: MIT
# The target `docs`: docs/html/index.html in the build folder, from the doc comments of all headers, with README.md as its first page, and
# the tour. What doxygen does not understand is an error. Needs doxygen; without it there is no such target.
find_package(Doxygen QUIET)
if(DOXYGEN_FOUND)
  set(DOXYGEN_OUTPUT_DIRECTORY "${PROJECT_BINARY_DIR}/docs")
  set(DOXYGEN_USE_MDFILE_AS_MAINPAGE "${PROJECT_SOURCE_DIR}/README.md")
  set(DOXYGEN_EXCLUDE_SYMBOLS "detail" "*::detail" "*::detail::*")
  set(DOXYGEN_FULL_PATH_NAMES NO)  # doxygen 1.9.4 takes two files of one name for the same when it strips paths
  set(DOXYGEN_EXCLUDE_PATTERNS "*/stb_image*.hpp")  # what they include has no declarations of ours
  set(DOXYGEN_EXTRACT_ALL YES)  # many members say all in their names and types
  set(DOXYGEN_JAVADOC_AUTOBRIEF YES)
  set(DOXYGEN_BUILTIN_STL_SUPPORT YES)
  set(DOXYGEN_HAVE_DOT NO)
  set(DOXYGEN_GENERATE_LATEX NO)
  set(DOXYGEN_QUIET YES)
  set(DOXYGEN_WARN_AS_ERROR FAIL_ON_WARNINGS)  # after all of them have been printed
  doxygen_add_docs(docs "${PROJECT_SOURCE_DIR}/include" "${PROJECT_SOURCE_DIR}/README.md" "${PROJECT_SOURCE_DIR}/examples/README.md"
    COMMENT "Documentation: ${DOXYGEN_OUTPUT_DIRECTORY}/html/index.html")
endif()
