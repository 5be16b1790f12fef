// SPDX-License-Identifier: MIT
#pragma once

/// Everything that runs models and looks inside: tensors, kernels, layers, Mllama, its files, pictures, text, generation and observers.
/// Included by itself is what writes and checks folders: generate/quantize.hpp, generate/synthesize.hpp, generate/verify.hpp,
/// io/checkpoint_writer.hpp; what writes pictures and arrays: io/png.hpp, io/npy.hpp, observe/record_files.hpp; and what compares runs:
/// observe/error_lab.hpp, generate/prompt_inputs.hpp.

#include <mllama/core/axes.hpp>
#include <mllama/core/check.hpp>
#include <mllama/core/context.hpp>
#include <mllama/core/encode.hpp>
#include <mllama/core/format.hpp>
#include <mllama/core/rounding.hpp>
#include <mllama/core/tensor.hpp>
#include <mllama/core/thread_pool.hpp>
#include <mllama/core/visit.hpp>
#include <mllama/core/workspace.hpp>
#include <mllama/generate/adapter_file.hpp>
#include <mllama/generate/adapters.hpp>
#include <mllama/generate/batch.hpp>
#include <mllama/generate/chat.hpp>
#include <mllama/generate/logits.hpp>
#include <mllama/generate/padded.hpp>
#include <mllama/generate/picture.hpp>
#include <mllama/generate/pretrained.hpp>
#include <mllama/generate/sampler.hpp>
#include <mllama/generate/session.hpp>
#include <mllama/io/adapter_config.hpp>
#include <mllama/io/checkpoint.hpp>
#include <mllama/io/config.hpp>
#include <mllama/io/image.hpp>
#include <mllama/io/safetensors.hpp>
#include <mllama/io/safetensors_writer.hpp>
#include <mllama/models/mllama/adapted.hpp>
#include <mllama/models/mllama/describe.hpp>
#include <mllama/models/mllama/mllama.hpp>
#include <mllama/models/mllama/models.hpp>
#include <mllama/models/mllama/random.hpp>
#include <mllama/observe/attention_maps.hpp>
#include <mllama/observe/heat_map.hpp>
#include <mllama/observe/logit_lens.hpp>
#include <mllama/observe/non_finite_finder.hpp>
#include <mllama/observe/observers.hpp>
#include <mllama/observe/recorder.hpp>
#include <mllama/observe/statistics.hpp>
#include <mllama/text/chat_template.hpp>
#include <mllama/text/tokenizer.hpp>
#include <mllama/version.hpp>
#include <mllama/vision/image.hpp>
#include <mllama/vision/processor.hpp>
