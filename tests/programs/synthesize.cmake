# SPDX-License-Identifier: MIT
# cmake -D bin=FOLDER -D pocket=FOLDER -D golden=FOLDER -D folder=BUILD_FOLDER -P synthesize.cmake
#
# What `synthesize` writes is a model folder to the other programs in BIN; what it cannot write is one line on stderr.
file(REMOVE_RECURSE "${folder}")
file(MAKE_DIRECTORY "${folder}")

# run(PROGRAM ARGUMENT…): sets status, out and err.
macro(run program)
  execute_process(COMMAND "${bin}/${program}" ${ARGN} RESULT_VARIABLE status OUTPUT_VARIABLE out ERROR_VARIABLE err)
endmacro()

# holds(CONDITION…), about the last call
macro(holds)
  if(NOT (${ARGN}))
    message(SEND_ERROR "not so: ${ARGN}\nstatus ${status}, stdout: ${out}stderr: ${err}")
  endif()
endmacro()

# refused(MESSAGE ARGUMENT…)
function(refused message)
  run(synthesize ${ARGN})
  string(FIND "${err}" "${message}" at)
  string(REGEX MATCHALL "\n" lines "${err}")
  holds(status EQUAL 1 AND NOT at EQUAL -1 AND err MATCHES "^synthesize: " AND lines STREQUAL "\n" AND out MATCHES "^$")
endfunction()

refused("MODEL" --out "${folder}/out")
refused("--out" pocket)
refused("MODEL: expected a config.json, or one of pocket, " tiny --out "${folder}/out")
refused("--format" pocket --out "${folder}/out" --format q4)
refused("--plain: expected nf4 or fp4, which have scales per block, found int8" pocket --out "${folder}/out" --format int8 --plain)
refused("--plain" pocket --out "${folder}/out" --nested --plain)
refused("expected a model that is built in (" "${golden}/models/odd/config.json" --out "${folder}/out")
refused("model: expected the name of a new folder or of an empty one, found a folder with" pocket --out "${pocket}/model")
refused("none/out: cannot create: No such file or directory" pocket --out "${folder}/none/out")
file(GLOB left "${folder}/*")
if(left)
  message(SEND_ERROR "left: ${left}")
endif()

foreach(format nf4 fp4 int8 bf16)
  set(model "${folder}/${format}")
  run(synthesize pocket --out "${model}" --format ${format})
  holds(status EQUAL 0 AND out MATCHES "^[0-9]+ tensors, [0-9]+ bytes, [^\n]*MB peak memory\n$" AND err MATCHES "^$")
  run(verify "${model}")
  holds(status EQUAL 0 AND out MATCHES "no problem")
  run(describe --model "${model}" --image "${pocket}/pictures/small.png" --quiet --max-new-tokens 3)
  holds(status EQUAL 0 AND err MATCHES "^$")
endforeach()

# The same seed and sizes, these from a file, are the same bytes; and the module tree is that of the model.
run(synthesize "${pocket}/model-nf4/config.json" --out "${folder}/again" --threads 3)
file(GLOB files RELATIVE "${folder}/nf4" "${folder}/nf4/*")
foreach(file IN LISTS files)
  file(SHA256 "${folder}/nf4/${file}" first)
  file(SHA256 "${folder}/again/${file}" again)
  if(NOT first STREQUAL again)
    message(SEND_ERROR "${file} differs")
  endif()
endforeach()
run(tree "${folder}/nf4")
set(tree "${out}")
run(tree "${pocket}/model-nf4")
holds(status EQUAL 0 AND out STREQUAL tree)
