# SPDX-License-Identifier: MIT
# Model types from the config.json files that Hugging Face saves beside the weights. The reading rules are those of transformers'
# MllamaConfig: a field that is not there has its default, and one that cannot be right stops CMake with the file's and the field's name.

# mllama_generate_models(TARGET HEADER MODEL…)
#
# Writes HEADER, which TARGET can then include, with one type in namespace mllama::models for each MODEL, and `ModelList` of all.
# A MODEL is `config.json` or `NAME=config.json`; without NAME, the folder's name is taken. The type has the name in PascalCase.
# A changed config.json is read anew when the target is built next.
#
#   add_executable(app app.cpp)
#   target_link_libraries(app PRIVATE mllama::mllama)
#   mllama_generate_models(app my_models.hpp tiny=checkpoints/tiny-random/config.json)   # mllama::models::Tiny
function(mllama_generate_models target header)
  set(folder "${CMAKE_CURRENT_BINARY_DIR}/${target}_models")
  set(structs "")
  set(types "")
  foreach(model IN LISTS ARGN)
    string(REGEX MATCH "^(([^=/]+)=)?(.+)$" model "${model}")
    set(name "${CMAKE_MATCH_2}")
    set(path "${CMAKE_MATCH_3}")
    get_filename_component(file "${path}" ABSOLUTE)
    if(NOT name)
      get_filename_component(name "${file}" DIRECTORY)
      get_filename_component(name "${name}" NAME)
    endif()
    _mllama_type_name("${name}" type)
    if(type IN_LIST types)
      message(FATAL_ERROR "${file}: another model of ${target} is named ${type} already; give one a name, as in NAME=${file}")
    endif()
    list(APPEND types ${type})
    _mllama_model_struct("${file}" "${name}" ${type} struct)
    string(APPEND structs "\n// ${path}${struct}")
    set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${file}")
  endforeach()

  list(JOIN types ", " types)
  file(CONFIGURE OUTPUT "${folder}/${header}" @ONLY CONTENT [[
// Made by CMake from the config.json files named below; edit those.
#pragma once

#include <array>
#include <string_view>

#include <mllama/models/mllama/mllama.hpp>
#include <mllama/models/mllama/models.hpp>

namespace mllama::models {
@structs@
using ModelList = Models<@types@>;

}  // namespace mllama::models
]])
  get_target_property(kind ${target} TYPE)
  set(scope PRIVATE)
  if(kind STREQUAL "INTERFACE_LIBRARY")
    set(scope INTERFACE)
  endif()
  target_include_directories(${target} ${scope} "${folder}")
endfunction()

# `llama-3.2-11b` -> `Llama3211b`, `tiny_random` -> `TinyRandom`
function(_mllama_type_name name out)
  string(REGEX MATCHALL "[A-Za-z0-9]+" words "${name}")
  set(type "")
  foreach(word IN LISTS words)
    string(SUBSTRING "${word}" 0 1 first)
    string(SUBSTRING "${word}" 1 -1 rest)
    string(TOUPPER "${first}" first)
    string(APPEND type "${first}${rest}")
  endforeach()
  if(NOT type MATCHES "^[A-Z]")
    set(type "Model${type}")
  endif()
  set(${out} ${type} PARENT_SCOPE)
endfunction()

# The functions below see `file` and `text`, its contents, of the caller. FIELD is a path with dots: `vision_config.hidden_size`.

function(_mllama_fail field problem)
  message(FATAL_ERROR "${file}: ${field}: ${problem}")
endfunction()

# The JSON of FIELD, which must have the JSON type TYPE. If it is not there, or null, DEFAULT; an empty DEFAULT: it must be there.
function(_mllama_read out field type default)
  string(REPLACE "." ";" path "${field}")
  string(JSON found ERROR_VARIABLE absent TYPE "${text}" ${path})
  if(NOT absent AND NOT found STREQUAL "NULL")
    string(JSON value GET "${text}" ${path})
    if(NOT found STREQUAL type)
      string(TOLOWER "${type}" type)
      _mllama_fail(${field} "expected ${type}, found ${value}")
    endif()
    set(${out} "${value}" PARENT_SCOPE)
  elseif(default STREQUAL "")
    string(TOLOWER "${type}" type)
    _mllama_fail(${field} "expected ${type}, found nothing")
  else()
    set(${out} "${default}" PARENT_SCOPE)
  endif()
endfunction()

function(_mllama_read_int out field minimum default)
  _mllama_read(value ${field} NUMBER "${default}")
  if(NOT value MATCHES "^-?[0-9]+$" OR value LESS minimum OR value GREATER 2147483647)
    _mllama_fail(${field} "expected an integer from ${minimum} to 2147483647, found ${value}")
  endif()
  set(${out} ${value} PARENT_SCOPE)
endfunction()

# A number above 0, as the file writes it: CMake prints 1e-05 as 1.0000000000000001e-05, the same number, but not what a person writes.
function(_mllama_read_real out field default)
  _mllama_read(value ${field} NUMBER "${default}")
  if(NOT value GREATER 0)
    _mllama_fail(${field} "expected a number above 0, found ${value}")
  endif()
  string(REGEX REPLACE "^.*\\." "" key "${field}")
  string(REGEX MATCHALL "\"${key}\"[ \t\r\n]*:[ \t\r\n]*[0-9.eE+-]+" literals "${text}")
  if(literals MATCHES "^[^;]*:[ \t\r\n]*([^;]+)$")
    set(value ${CMAKE_MATCH_1})
  endif()
  string(REGEX REPLACE "\\.0+$" "" value "${value}")
  set(${out} ${value} PARENT_SCOPE)
endfunction()

# A list of the different layers 0 … LAYERS - 1, in the file's order.
function(_mllama_read_layers out field layers default)
  _mllama_read(array ${field} ARRAY "${default}")
  string(REGEX REPLACE "[][ \t\r\n]" "" indices "${array}")
  string(REPLACE "," ";" indices "${indices}")
  foreach(index IN LISTS indices)
    if(NOT index MATCHES "^[0-9]+$" OR NOT index LESS layers)
      _mllama_fail(${field} "expected layers from 0 to one below ${layers}, found ${index}")
    endif()
  endforeach()
  set(${out} "${indices}" PARENT_SCOPE)
endfunction()

function(_mllama_read_activation out field default)
  _mllama_read(key ${field} STRING "${default}")
  set(types gelu=GELU gelu_new=TanhGELU gelu_pytorch_tanh=TanhGELU quick_gelu=QuickGELU relu=ReLU silu=SiLU swish=SiLU)
  list(FILTER types INCLUDE REGEX "^${key}=")
  if(NOT types)
    _mllama_fail(${field} "expected gelu, gelu_new, gelu_pytorch_tanh, quick_gelu, relu, silu or swish, found ${key}")
  endif()
  string(REGEX REPLACE ".*=" "" type "${types}")
  set(${out} ${type} PARENT_SCOPE)
endfunction()

# `3;8` -> `static constexpr std::array NAME{3, 8}`
function(_mllama_int_array out name values)
  if(values STREQUAL "")
    set(${out} "static constexpr std::array<int, 0> ${name}{}" PARENT_SCOPE)
  else()
    list(JOIN values ", " values)
    set(${out} "static constexpr std::array ${name}{${values}}" PARENT_SCOPE)
  endif()
endfunction()

function(_mllama_check_multiple field value divisor_field divisor)
  math(EXPR rest "${value} % ${divisor}")
  if(NOT rest EQUAL 0)
    _mllama_fail(${field} "expected a multiple of ${divisor_field}, ${divisor}, found ${value}")
  endif()
endfunction()

# The members of a struct that derives from VisionConfig: those that it leaves open, and those that differ.
function(_mllama_vision_members out)
  set(config vision_config)
  _mllama_read_int(image ${config}.image_size 1 448)
  _mllama_read_int(patch ${config}.patch_size 1 14)
  _mllama_read_int(channels ${config}.num_channels 1 3)
  _mllama_read_int(tiles ${config}.max_num_tiles 1 4)
  _mllama_read_int(hidden ${config}.hidden_size 1 1280)
  _mllama_read_int(inner ${config}.intermediate_size 1 5120)
  _mllama_read_int(layers ${config}.num_hidden_layers 1 32)
  _mllama_read_int(global_layers ${config}.num_global_layers 0 8)
  _mllama_read_layers(intermediate ${config}.intermediate_layers_indices ${layers} "[3, 7, 15, 23, 30]")
  _mllama_read_activation(activation ${config}.hidden_act gelu)
  _mllama_read_real(norm_eps ${config}.norm_eps 1e-05)

  # The class calls it num_attention_heads and saves it as attention_heads; releases differ in which one wins.
  _mllama_read_int(heads ${config}.num_attention_heads 1 16)
  _mllama_read_int(heads ${config}.attention_heads 1 ${heads})
  _mllama_read_int(other_heads ${config}.num_attention_heads 1 ${heads})
  if(NOT other_heads EQUAL heads)
    _mllama_fail(${config}.num_attention_heads "expected ${heads} as in attention_heads, found ${other_heads}")
  endif()
  _mllama_check_multiple(${config}.hidden_size ${hidden} attention_heads ${heads})
  _mllama_check_multiple(${config}.image_size ${image} patch_size ${patch})

  list(LENGTH intermediate states)
  math(EXPR expected "${hidden} * (1 + ${states})")
  _mllama_read_int(output ${config}.vision_output_dim 1 7680)
  if(NOT output EQUAL expected)
    _mllama_fail(${config}.vision_output_dim "expected ${expected}, hidden_size for the output and each intermediate layer, found ${output}")
  endif()

  set(published_ratios "[[1,1],[1,2],[1,3],[1,4],[2,1],[2,2],[3,1],[4,1]]")
  set(default_ratios "")
  if(tiles EQUAL 4)
    set(default_ratios "${published_ratios}")
  endif()
  _mllama_read(ratios ${config}.supported_aspect_ratios ARRAY "${default_ratios}")
  string(REGEX REPLACE "[ \t\r\n]" "" ratios "${ratios}")
  set(pair "\\[[1-9][0-9]*,[1-9][0-9]*\\]")
  if(NOT ratios MATCHES "^\\[(${pair},)*${pair}\\]$")
    _mllama_fail(${config}.supported_aspect_ratios "expected pairs [tiles high, tiles wide], found ${ratios}")
  endif()
  string(REGEX REPLACE "^\\[\\[|\\]\\]$" "" grids "${ratios}")
  string(REPLACE "],[" ";" grids "${grids}")
  foreach(grid IN LISTS grids)
    string(REPLACE "," "*" product "${grid}")
    math(EXPR product "${product}")
    if(product GREATER tiles)
      _mllama_fail(${config}.supported_aspect_ratios "expected at most ${tiles} tiles as in max_num_tiles, found [${grid}]")
    endif()
  endforeach()

  set(members "")
  if(NOT activation STREQUAL "GELU")
    list(APPEND members "using activation = ${activation}")
  endif()
  set(sizes "static constexpr int image = ${image}")
  if(NOT patch EQUAL 14)
    string(APPEND sizes ", patch = ${patch}")
  endif()
  if(NOT channels EQUAL 3)
    string(APPEND sizes ", channels = ${channels}")
  endif()
  if(NOT tiles EQUAL 4)
    string(APPEND sizes ", tiles = ${tiles}")
  endif()
  list(APPEND members "${sizes}"
    "static constexpr int hidden = ${hidden}, inner = ${inner}, heads = ${heads}, layers = ${layers}, global_layers = ${global_layers}")
  _mllama_int_array(array intermediate "${intermediate}")
  list(APPEND members "${array}")
  if(NOT norm_eps EQUAL 0.00001)
    list(APPEND members "static constexpr double norm_eps = ${norm_eps}")
  endif()
  if(NOT ratios STREQUAL published_ratios)
    list(TRANSFORM grids REPLACE "(.+),(.+)" "TileGrid{\\1, \\2}")
    list(JOIN grids ", " grids)
    list(APPEND members "static constexpr std::array aspect_ratios{${grids}}")
  endif()
  set(${out} "${members}" PARENT_SCOPE)
endfunction()

# The same for TextConfig.
function(_mllama_text_members out)
  set(config text_config)
  _mllama_read_int(vocab ${config}.vocab_size 1 128256)
  _mllama_read_int(image_token image_token_id 0 128256)  # a newer name; saved files have the next one
  _mllama_read_int(image_token image_token_index 0 ${image_token})
  string(JSON pad_type ERROR_VARIABLE absent TYPE "${text}" ${config} pad_token_id)
  if(pad_type STREQUAL "NULL")
    set(pad_token -1)
  else()
    _mllama_read_int(pad_token ${config}.pad_token_id 0 128004)
  endif()
  _mllama_read_int(hidden ${config}.hidden_size 1 4096)
  _mllama_read_int(inner ${config}.intermediate_size 1 14336)
  _mllama_read_int(heads ${config}.num_attention_heads 1 32)
  _mllama_read_int(kv_heads ${config}.num_key_value_heads 1 8)
  _mllama_read_int(layers ${config}.num_hidden_layers 1 40)
  _mllama_read_layers(cross ${config}.cross_attention_layers ${layers} "[3, 8, 13, 18, 23, 28, 33, 38]")
  _mllama_read_activation(activation ${config}.hidden_act silu)
  _mllama_read_real(norm_eps ${config}.rms_norm_eps 1e-05)
  _mllama_check_multiple(${config}.hidden_size ${hidden} num_attention_heads ${heads})
  _mllama_check_multiple(${config}.num_attention_heads ${heads} num_key_value_heads ${kv_heads})
  _mllama_read(tied ${config}.tie_word_embeddings BOOLEAN OFF)
  if(tied)
    _mllama_fail(${config}.tie_word_embeddings "expected false, since the embedding has more rows than the head, found true")
  endif()

  # Releases 4.x save rope_theta beside rope_scaling, 5.x both in rope_parameters.
  _mllama_read(parameters ${config}.rope_parameters OBJECT {})
  if(NOT parameters STREQUAL "{}")
    set(rope ${config}.rope_parameters)
    _mllama_read_real(rope_theta ${rope}.rope_theta 500000)
  else()
    set(rope ${config}.rope_scaling)
    _mllama_read_real(rope_theta ${config}.rope_theta 500000)
  endif()
  _mllama_read(type ${rope}.type STRING default)
  _mllama_read(type ${rope}.rope_type STRING ${type})
  if(type STREQUAL "llama3")
    _mllama_read_real(factor ${rope}.factor "")
    _mllama_read_real(low ${rope}.low_freq_factor "")
    _mllama_read_real(high ${rope}.high_freq_factor "")
    _mllama_read_int(original ${rope}.original_max_position_embeddings 1 "")
  elseif(NOT type STREQUAL "default")
    _mllama_fail(${rope}.rope_type "expected llama3 or default, found ${type}")
  endif()

  set(members "")
  if(NOT activation STREQUAL "SiLU")
    list(APPEND members "using activation = ${activation}")
  endif()
  set(ids "static constexpr int vocab = ${vocab}, image_token = ${image_token}")
  if(NOT pad_token EQUAL -1)
    string(APPEND ids ", pad_token = ${pad_token}")
  endif()
  list(APPEND members "${ids}"
    "static constexpr int hidden = ${hidden}, inner = ${inner}, heads = ${heads}, kv_heads = ${kv_heads}, layers = ${layers}")
  _mllama_int_array(array cross "${cross}")
  list(APPEND members "${array}")
  if(NOT norm_eps EQUAL 0.00001)
    list(APPEND members "static constexpr double norm_eps = ${norm_eps}")
  endif()
  if(NOT rope_theta EQUAL 500000)
    list(APPEND members "static constexpr double rope_theta = ${rope_theta}")
  endif()
  if(type STREQUAL "default")
    list(APPEND members "static constexpr RopeScaling rope_scaling{}")
  elseif(NOT "${factor} ${low} ${high} ${original}" STREQUAL "8 1 4 8192")
    list(APPEND members "static constexpr RopeScaling rope_scaling{.factor = ${factor}, .low_freq_factor = ${low}, \
.high_freq_factor = ${high}, .original_max_position_embeddings = ${original}}")
  endif()
  set(${out} "${members}" PARENT_SCOPE)
endfunction()

# The C++ text of one model.
function(_mllama_model_struct file name type out)
  if(NOT EXISTS "${file}")
    message(FATAL_ERROR "${file}: no such file")
  endif()
  file(READ "${file}" text)
  string(JSON kind ERROR_VARIABLE problem TYPE "${text}")
  if(problem)
    message(FATAL_ERROR "${file}: ${problem}")
  endif()
  _mllama_read(model_type model_type STRING "")
  if(NOT model_type STREQUAL "mllama")
    _mllama_fail(model_type "expected mllama, found ${model_type}")
  endif()
  _mllama_read(section vision_config OBJECT "")
  _mllama_read(section text_config OBJECT "")
  _mllama_vision_members(vision_members)
  _mllama_text_members(text_members)
  list(JOIN vision_members ";\n  " vision_members)
  list(JOIN text_members ";\n  " text_members)
  set(${out} "
struct ${type}Vision : VisionConfig {
  ${vision_members};
};
struct ${type}Text : TextConfig {
  ${text_members};
};
struct ${type} : Mllama<${type}Vision, ${type}Text> {
  static constexpr std::string_view name = \"${name}\";
};
" PARENT_SCOPE)
endfunction()
