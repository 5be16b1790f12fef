# SPDX-License-Identifier: MIT
# cmake -D program=VERIFY -D pocket=FOLDER -D golden=FOLDER -D folder=BUILD_FOLDER -P verify.cmake
#
# What `verify` says of good and of damaged folders: a line for each problem and one at the end on stdout, and exit status 1 if
# there was any problem.
file(REMOVE_RECURSE "${folder}")

# verify(STATUS OUTPUT ARGUMENT…): OUTPUT is a regular expression; FOLDER in it stands for the folder below.
function(verify status output)
  execute_process(COMMAND "${program}" ${ARGN} RESULT_VARIABLE found OUTPUT_VARIABLE out ERROR_VARIABLE err)
  if(NOT found STREQUAL status OR NOT out MATCHES "^${output}$" OR err)
    list(JOIN ARGN " " arguments)
    message(SEND_ERROR "${arguments}\nexpected: status ${status}, ${output}\nfound:    status ${found}, ${out}${err}")
  endif()
endfunction()

# A folder with copies of the files of another one.
function(copy from name)
  file(MAKE_DIRECTORY "${folder}/${name}")
  file(GLOB files "${from}/*.*")
  execute_process(COMMAND ${CMAKE_COMMAND} -E copy ${files} "${folder}/${name}")
endfunction()

set(sum "[^\n]*: [0-9]+ tensors, [0-9]+ bytes, ")
verify(0 "${sum}no problem\n" "${pocket}/model-nf4")
verify(0 "${sum}no problem\n" --quick "${pocket}/model-nf4")
verify(0 "note: [^\n]*/config.json: no model type that is built in[^\n]*\n${sum}no problem\n" "${golden}/models/nf4_mixed")
verify(0 "note: [^\n]*\n${sum}no problem\n" "${golden}/layouts/meta")
verify(0 "note: [^\n]*\n${sum}no problem\n" "${golden}/layouts/text_only")

copy("${pocket}/model-nf4" damaged)
file(WRITE "${folder}/damaged/generation_config.json" "{")
file(WRITE "${folder}/damaged/preprocessor_config.json" "{\"size\": 3}")
verify(1 "[^\n]*/generation_config.json: byte 1: [^\n]*\n[^\n]*/preprocessor_config.json: size: [^\n]*\n${sum}2 problems\n" "${folder}/damaged")
copy("${pocket}/model-nf4" cut)
execute_process(COMMAND head -c 100000 "${pocket}/model-nf4/model.safetensors" OUTPUT_FILE "${folder}/cut/model.safetensors")
verify(1 "[^\n]*/model.safetensors: expected [^\n]*\nnote: [^\n]*not listed\n[^\n]*: 0 tensors, 0 bytes, 1 problem\n" "${folder}/cut")
verify(1 "[^\n]*/none/config.json: [^\n]*\n[^\n]*/none: [^\n]*no such folder\nnote: [^\n]*\n[^\n]*: 0 tensors, 0 bytes, 2 problems\n"
       "${folder}/none")

execute_process(COMMAND "${program}" RESULT_VARIABLE found OUTPUT_VARIABLE out ERROR_VARIABLE err)
if(NOT found EQUAL 1 OR out OR NOT err MATCHES "^verify: [^\n]*DIR[^\n]*\n$")
  message(SEND_ERROR "no argument: status ${found}, ${out}${err}")
endif()
