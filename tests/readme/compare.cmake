# SPDX-License-Identifier: MIT
# cmake -D readme=README.md -P compare.cmake: the README shows model.cpp as it is.
file(READ "${readme}" text)
file(READ "${CMAKE_CURRENT_LIST_DIR}/model.cpp" code)
string(FIND "${text}" "\n```cpp\n${code}```\n" at)
if(at EQUAL -1)
  message(FATAL_ERROR " ${readme}: expected the text of ${CMAKE_CURRENT_LIST_DIR}/model.cpp")
endif()
