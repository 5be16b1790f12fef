# SPDX-License-Identifier: MIT
# cmake -D program=QUESTIONS -P questions.cmake
#
# What `questions` prints about Pocket's pictures: the same answers one by one and in one batch; and for whatever is wrong one line on
# stderr and exit status 1.
execute_process(COMMAND "${program}" --threads 2 RESULT_VARIABLE status OUTPUT_VARIABLE out ERROR_VARIABLE err)
foreach(line "8 pictures encoded in [0-9.]+ s\n" "\nshapes.png\n  What is in the picture\\? [^\n]*purple star" "\n32 questions one by one: [0-9.]+ s, [0-9.]+ tokens/s\n"
             "\nin one batch: [0-9.]+ s, [0-9.]+ tokens/s, [0-9.]+ times as fast\n" "\n0 answers differ\n$")
  if(NOT status EQUAL 0 OR err OR NOT out MATCHES "${line}")
    message(SEND_ERROR "expected ${line}\nstatus ${status}\n${out}${err}")
  endif()
endforeach()
execute_process(COMMAND "${program}" missing.png RESULT_VARIABLE status OUTPUT_VARIABLE out ERROR_VARIABLE err)
if(NOT status EQUAL 1 OR out OR NOT err MATCHES "^questions: missing.png: [^\n]+\n$")
  message(SEND_ERROR "a picture that is not there: status ${status}\n${out}${err}")
endif()
