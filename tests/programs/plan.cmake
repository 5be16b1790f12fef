# SPDX-License-Identifier: MIT
# cmake -D bin=FOLDER -D pocket=FOLDER -P plan.cmake
#
# What `plan` says of types and folders, and that what does not fit is refused, with what would.

macro(run program)
  execute_process(COMMAND "${bin}/${program}" ${ARGN} RESULT_VARIABLE status OUTPUT_VARIABLE out ERROR_VARIABLE err)
endmacro()
function(holds)
  if(NOT (${ARGN}))
    message(SEND_ERROR "does not hold: ${ARGN}\nstatus ${status}\n${out}${err}")
  endif()
endfunction()

# The numbers of the released model, and of its types of cache.
run(plan --tokens 1000 --new-tokens 0 --images 2 --threads 1)
holds(status EQUAL 0 AND NOT err)
holds(out MATCHES "[|] total +[|] 10 670 220 835 [|] +7 179 336 774 [|]")
holds(out MATCHES "self-attention +[|] +6 979 584 000 [|] +3 601 170 432 [|] +[0-9 ]+[|] +262 144 000 [|]")
holds(out MATCHES "cross-attention +[|][^\n]+[|] +839 385 088 [|]")
holds(out MATCHES "\nmemory at the peak: [67] [0-9][0-9][0-9] [0-9][0-9][0-9] [0-9][0-9][0-9] bytes\n$")
run(plan --tokens 1000 --new-tokens 0 --images 2 --threads 1 --kv bf16 --format bf16)
holds(status EQUAL 0 AND out MATCHES "self-attention [^\n]+[|] +131 072 000 [|]" AND out MATCHES "10 670 220 835 [|] 21 340 441 670 [|]")

# A folder's own bytes; a format asks for others.
run(plan "${pocket}/model-nf4" --threads 1)
holds(status EQUAL 0 AND NOT err AND out MATCHES "[|] total +[|] +2 350 219 [|] +1 954 769 [|]")
run(plan pocket --format f32 --threads 1)
holds(status EQUAL 0 AND NOT err AND out MATCHES "[|] total +[|] +2 350 219 [|] +9 400 876 [|]")

set(figures "found [0-9.]+ [kMGT]B for 512 tokens and 1 picture [(][0-9.]+ [kMG]B of weights, [0-9.]+ [kMG]B of keys and values, [0-9.]+ [kMG]B of workspace[)]")
run(plan --max-memory 7G --kv f32 --threads 1)
holds(status EQUAL 1 AND NOT out AND err MATCHES "^plan: llama-3.2-11b-vision-instruct: expected at most 7.0 GB of memory, ${figures}: it would fit with keys and values in bf16, or a prompt of at most [0-9]+ tokens\n$")
run(plan --max-memory 8G --format bf16 --threads 1)
holds(status EQUAL 1 AND NOT out AND err MATCHES "${figures}: it would fit with weights in nested nf4\n$")
run(plan --max-memory 1000 --threads 1)
holds(status EQUAL 1 AND NOT out AND err MATCHES "${figures}: neither other formats nor a shorter prompt would make it fit\n$")
foreach(memory 8G any 99999999999999)
  run(plan --max-memory ${memory} --threads 1)
  holds(status EQUAL 0 AND NOT err)
endforeach()

# `describe` does so before it loads, unless it is told to go on.
run(describe --max-memory 1M --quiet)
holds(status EQUAL 1 AND NOT out AND err MATCHES "^describe: [^\n]*model-nf4: expected at most 1.0 MB of memory, found [^\n]+\n$")
run(describe --max-memory any --quiet)
holds(status EQUAL 0 AND out AND NOT err)

macro(refused message)
  run(plan ${ARGN})
  holds(status EQUAL 1 AND NOT out AND err MATCHES "^plan: ${message}[^\n]*\n$")
endmacro()
refused("MODEL: expected a folder, or one of [^\n]*, found nothing" nothing)
refused("--format: expected nf4, fp4, int8, bf16, f16 or f32, found q4" --format q4)
refused("--kv: expected f32, bf16, f16 or int8, found f64" --kv f64)
refused("--max-memory: expected a number of bytes, as 8G or 500M, or any, found 8X" --max-memory 8X)
refused("--tokens: expected at least 3, one for each picture, found 2" --tokens 2 --images 3)
