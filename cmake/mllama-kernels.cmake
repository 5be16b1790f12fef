# SPDX-License-Identifier: MIT
# mllama_add_kernels(NAME): a static library of what does not depend on a model: the bodies of matrix products and of attention, readers
# and writers of files, the tokenizer, pictures. What links it has them from there instead of compiling them in each of its sources.
# For programs of several sources. Give it the flags of these, -march above all.
function(mllama_add_kernels name)
  set(folder "${CMAKE_CURRENT_BINARY_DIR}/${name}")
  set(sources)
  foreach(compute F32 Int16 BF16 Int8)
    set(content "#include <mllama/kernels/matmul.hpp>\nnamespace mllama::kernels::detail {\nMLLAMA_PRODUCTS(, ${compute})\n}\n")
    file(GENERATE OUTPUT "${folder}/products_${compute}.cpp" CONTENT "${content}")
    list(APPEND sources "${folder}/products_${compute}.cpp")
  endforeach()
  set(content "#include <mllama/kernels/attention.hpp>\nnamespace mllama::kernels::detail {\n")
  string(APPEND content "template const isa::AttentionBody* attention_body_of<arch::native>(InstructionSet, Precision, std::size_t);\n}\n")
  file(GENERATE OUTPUT "${folder}/attention.cpp" CONTENT "${content}")
  # Classes that are templates without parameters.
  set(headers_io io/config.hpp io/image.hpp io/checkpoint.hpp io/checkpoint_writer.hpp io/output_folder.hpp)
  set(classes_io Safetensors ModelFiles Checkpoint CheckpointWriter OutputFolder MetaLayout)
  set(headers_text text/chat_template.hpp text/tokenizer.hpp)
  set(classes_text Pattern SplitPattern AddedTokens Tokenizer)
  set(headers_generate generate/sampler.hpp vision/processor.hpp)
  set(classes_generate Sampler ImageProcessor)
  set(headers_folders generate/pretrained.hpp generate/adapter_file.hpp generate/merged_folder.hpp generate/quantize.hpp)
  set(classes_folders AdapterFile MergedFolder Quantizer)
  # And functions.
  set(functions_io
    "ModelSizes model_sizes<>(const JsonField&)"
    "GenerationSettings read_generation_settings<>(const std::string&, const TextSizes&)"
    "Image decode_image<>(std::span<const std::byte>, std::string_view, const ImageLimits&)")
  set(functions_text "std::string render_chat<>(std::span<const Message>, const ChatOptions&)")
  set(functions_folders
    "std::optional<ChatTemplate> detail::read_chat_template<>(const std::string&)"
    "std::optional<Tokenizer> detail::read_tokenizer<>(const std::string&, std::size_t)"
    "std::optional<ImageProcessor> detail::read_processor<>(const std::string&, const VisionSizes&)")
  foreach(part io text generate folders)
    set(content "")
    foreach(header IN LISTS headers_${part})
      string(APPEND content "#include <mllama/${header}>\n")
    endforeach()
    string(APPEND content "namespace mllama {\n")
    foreach(class IN LISTS classes_${part})
      string(APPEND content "template class Basic${class}<>;\n")
    endforeach()
    foreach(function IN LISTS functions_${part})
      string(APPEND content "template ${function};\n")
    endforeach()
    string(APPEND content "}\n")
    file(GENERATE OUTPUT "${folder}/${part}.cpp" CONTENT "${content}")
    list(APPEND sources "${folder}/${part}.cpp")
  endforeach()
  add_library(${name} STATIC ${sources} "${folder}/attention.cpp")
  target_link_libraries(${name} PUBLIC mllama::mllama)
  target_compile_definitions(${name} PUBLIC MLLAMA_ELSEWHERE)
  set_target_properties(${name} PROPERTIES CXX_EXTENSIONS OFF)
endfunction()
