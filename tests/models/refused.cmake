# SPDX-License-Identifier: MIT
# cmake -D folder=BUILD_FOLDER -P refused.cmake
#
# Changes one field of a good config.json at a time, and compares what CMake says about the file.
include("${CMAKE_CURRENT_LIST_DIR}/../../cmake/mllama-models.cmake")

if(DEFINED file)  # called by the loop below
  _mllama_model_struct("${file}" name Name struct)
  return()
endif()

file(READ "${CMAKE_CURRENT_LIST_DIR}/odd/config.json" good)
file(MAKE_DIRECTORY "${folder}")
# refused(CONTENT MESSAGE)
function(refused content message)
  set(file "${folder}/config.json")
  file(WRITE "${file}" "${content}")
  execute_process(COMMAND ${CMAKE_COMMAND} -D file=${file} -P "${CMAKE_CURRENT_LIST_FILE}" RESULT_VARIABLE status ERROR_VARIABLE said)
  string(FIND "${said}" " ${file}: ${message}\n" at)
  if(status EQUAL 0 OR at EQUAL -1)
    message(SEND_ERROR "expected: ${message}\nfound:    ${said}")
  endif()
endfunction()

# field(PATH JSON MESSAGE): with JSON at PATH, the message is `PATH: MESSAGE`.
function(field path json message)
  string(REPLACE "." ";" keys "${path}")
  string(JSON content SET "${good}" ${keys} "${json}")
  refused("${content}" "${path}: ${message}")
endfunction()

refused("" "failed parsing json string: * Line 1, Column 1")
refused("[1]" "vision_config: expected object, found nothing")
field(model_type [=["llama"]=] "expected mllama, found llama")
field(text_config [=[3]=] "expected object, found 3")
field(image_token_index [=[-1]=] "expected an integer from 0 to 2147483647, found -1")

field(vision_config.hidden_size [=["33"]=] "expected number, found 33")
field(vision_config.hidden_size [=[32]=] "expected a multiple of attention_heads, 3, found 32")
field(vision_config.attention_heads [=[11]=] "expected the same as num_attention_heads, 3, found 11")
field(vision_config.image_size [=[3.5]=] "expected an integer from 1 to 2147483647, found 3.5")
field(vision_config.image_size [=[40]=] "expected a multiple of patch_size, 13, found 40")
field(vision_config.num_hidden_layers [=[99999999999]=] "expected an integer from 1 to 2147483647, found 99999999999")
field(vision_config.intermediate_layers_indices [=[[0, 6]]=] "expected layers from 0 to 5, found 6")
field(vision_config.intermediate_layers_indices [=[[]]=] "expected a list of layers, found none")
field(vision_config.vision_output_dim [=[98]=] "expected 99, hidden_size for the output and each intermediate layer, found 98")
field(vision_config.supported_aspect_ratios [=[null]=] "expected array, found nothing")
field(vision_config.supported_aspect_ratios [=[[[1, 2, 3]]]=] "expected pairs [tiles high, tiles wide], found [[1,2,3]]")
field(vision_config.supported_aspect_ratios [=[[[1, 7]]]=] "expected at most 6 tiles as in max_num_tiles, found [1,7]")
field(vision_config.norm_eps [=[0]=] "expected a number above 0, found 0")
field(vision_config.hidden_act [=["tanh"]=] "expected gelu, gelu_new, gelu_pytorch_tanh, quick_gelu, relu, silu or swish, found tanh")

string(JSON content SET "${good}" text_config num_key_value_heads 2)
refused("${content}" "text_config.num_attention_heads: expected a multiple of num_key_value_heads, 2, found 7")
field(text_config.cross_attention_layers [=[[1, 7]]=] "expected layers from 0 to 6, found 7")
field(text_config.cross_attention_layers [=[[1, 1]]=] "expected every layer once, and not all 7, found 2")
field(text_config.hidden_size [=[49]=] "expected an even number for each of 7 heads, found 49")
field(text_config.tie_word_embeddings [=[true]=] "expected false, since the embedding has more rows than the head, found true")
field(text_config.rope_parameters.rope_type [=["yarn"]=] "expected llama3 or default, found yarn")
field(text_config.rope_parameters.factor [=[null]=] "expected number, found nothing")
field(text_config.rope_parameters.high_freq_factor [=[0.5]=] "expected a number above low_freq_factor, 0.5, found 0.5")
