# SPDX-License-Identifier: MIT
# cmake -D tour=README.md -D source=FILE -D program=PROGRAM -D pocket=FOLDER -P compare.cmake: the tour shows the file as it is, and below
# it what the program prints.
file(READ "${tour}" text)
file(READ "${source}" code)
execute_process(COMMAND "${program}" "${pocket}/model-nf4" "${pocket}/pictures/shapes.png" RESULT_VARIABLE status OUTPUT_VARIABLE out
                ERROR_VARIABLE err)
if(NOT status EQUAL 0)
  message(FATAL_ERROR "${source}: expected exit status 0, found ${status}: ${err}")
endif()
string(FIND "${text}" "\n```cpp\n${code}```\n\n```text\n${out}```\n" at)
if(at EQUAL -1)
  message(FATAL_ERROR "${tour}: expected the text of ${source}, and what it prints:\n${out}")
endif()
