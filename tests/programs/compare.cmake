# SPDX-License-Identifier: MIT
# cmake -D program=COMPARE -D pocket=FOLDER -D golden=FOLDER -D folder=BUILD_FOLDER -P compare.cmake
#
# What `compare` prints of two ways to run Pocket, and of what transformers computed with it: lines of modules and of answers on stdout,
# exit status 1 if an error is beyond --bound, and for whatever is wrong one line on stderr and exit status 1.
set(picture "${pocket}/pictures/shapes.png")
set(number "[0-9.e+-]+")
file(REMOVE_RECURSE "${folder}")
file(MAKE_DIRECTORY "${folder}")

function(compare)
  execute_process(COMMAND "${program}" --threads 2 ${ARGN} RESULT_VARIABLE status OUTPUT_VARIABLE out ERROR_VARIABLE err)
  set(status "${status}" PARENT_SCOPE)
  set(out "${out}" PARENT_SCOPE)
  set(err "${err}" PARENT_SCOPE)
endfunction()
function(holds)
  if(NOT (${ARGN}))
    message(SEND_ERROR "does not hold: ${ARGN}\nstatus ${status}\n${out}${err}")
  endif()
endfunction()

# The same twice: no error at all.
compare("What is this?" --image ${picture} --b precision=f32 --bound 0)
holds(status EQUAL 0 AND NOT err)
holds(out MATCHES "^A: [^\n]*model-nf4, profile meta, precision f32, kv f32\nB: [^\n]*model-nf4, profile meta, precision f32, kv f32\n\nmodule +error in +made here +error out\n")
foreach(module vision_model.layernorm_pre vision_model.transformer.layers.3.mlp vision_model.global_transformer.layers.1.self_attn
        multi_modal_projector language_model.model.layers.4.cross_attn.v_proj language_model.model.layers.2.cross_attn
        language_model.model.layers.5.mlp language_model.lm_head)
  holds(out MATCHES "\n${module} +0 +0 +0\n")
endforeach()
holds(out MATCHES "\nKL\\(A [|][|] B\\) of the next token: mean 0, largest 0 nats, over 16 tokens\ngreedy answers that change: 0 of 1\nmost probable tokens that change: 0 of 16\n")
holds(out MATCHES "\nfirst module that makes an error beyond 0: none\nfirst module whose result has an error beyond 0: none\n$")

# Products of quantised weights in bytes; keys in bytes; a profile. Each begins where it says.
compare("What is this?" --image ${picture} --b precision=int8 --bound 1e-4 -n 4)
holds(status EQUAL 1 AND NOT err)
holds(out MATCHES "\nlanguage_model.model.layers.0.self_attn +0 +[0-9.]+e-0[23] +[0-9.]+e-0[23]\n")
holds(out MATCHES " over 4 tokens\n.*makes an error beyond 0.0001: vision_model.transformer.layers.0.self_attn\n[^\n]*: vision_model.transformer.layers.0.self_attn\n$")
compare("What is this?" --image ${picture} --b kv=int8 --bound 1e-5)
holds(status EQUAL 1 AND out MATCHES "makes an error beyond 1e-05: language_model.model.layers.0.self_attn\n")
compare("What is this?" --image ${picture} --b profile=transformers_4_56 --bound 1e-5)
holds(status EQUAL 1 AND out MATCHES "makes an error beyond 1e-05: vision_model\n[^\n]*: vision_model\n$")

# Prompts of a file, and other weights.
file(WRITE "${folder}/prompts.txt" "Hello\nWhat is this?\t${picture}\r\n\nHow many shapes are there?\t${pocket}/pictures/wide.png\n")
compare(--prompts "${folder}/prompts.txt" --a "model=${pocket}/model" --b precision=f32)
holds(status EQUAL 0 AND NOT err)
holds(out MATCHES "\nvision_model.layernorm_pre +0 +0 +0\nvision_model.transformer.layers.0.self_attn +0 +${number} ")
holds(out MATCHES "\nKL[^\n]*: mean ${number}, largest ${number} nats, over [0-9]+ tokens\ngreedy answers that change: [0-3] of 3\nmost probable tokens that change: [0-9]+ of [0-9]+\n")

# What transformers 4.57.6 computed.
compare(--model "${pocket}/model" --activations "${golden}/activations/pocket.safetensors" --b profile=transformers_4_56 --bound 1e-5)
holds(status EQUAL 0 AND NOT err AND out MATCHES "^A: [^\n]*/pocket.safetensors\nB: [^\n]*/model, profile transformers_4_56,")
holds(out MATCHES "\nlanguage_model.model.embed_tokens +0 +0 +0\n.*\nlanguage_model.lm_head .*\ngreedy answers that change: 0 of 1\nmost probable tokens that change: 0 of 2\n")
compare(--activations "${golden}/activations/pocket.safetensors" --bound 1e-5)
holds(status EQUAL 1 AND out MATCHES "makes an error beyond 1e-05: language_model.model.layers.0.self_attn\n")

function(refused message)
  compare(${ARGN})
  string(FIND "${err}" "${message}" at)
  string(REGEX MATCHALL "\n" lines "${err}")
  if(NOT status EQUAL 1 OR at EQUAL -1 OR NOT err MATCHES "^compare: " OR NOT lines STREQUAL "\n")
    message(SEND_ERROR "${ARGN}\nexpected: ${message}\nfound:    ${err}status ${status}")
  endif()
endfunction()
refused("--b: expected what to compare with A, found none" Hello)
refused("PROMPT: expected a question, --prompts or --activations, found none" --b kv=int8)
refused("--b: expected model=DIR, profile=P, precision=P or kv=F, found speed=2" Hello --b kv=int8,speed=2)
refused("--kv: expected f32, bf16, f16 or int8, found int4" Hello --b kv=int4)
refused("/nothing/config.json" Hello --b model=/nothing)
refused("--a: expected none beside --activations, found kv=int8" --activations x --a kv=int8)
refused("--activations: expected no other prompts and pictures, found some" --activations x Hello)
refused("/prompts.txt: " --activations "${folder}/prompts.txt")
refused("--bound" Hello --b kv=int8 --bound much)
