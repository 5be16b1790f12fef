# SPDX-License-Identifier: MIT
# The version is written down once, in the header; this reads it into `mllama_version`.
file(STRINGS "${CMAKE_CURRENT_LIST_DIR}/../include/mllama/version.hpp" mllama_version REGEX "^#define MLLAMA_VERSION_[A-Z]+ [0-9]+$")
list(TRANSFORM mllama_version REPLACE "^.* " "")
list(JOIN mllama_version "." mllama_version)
