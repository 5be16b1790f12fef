// SPDX-License-Identifier: MIT
#pragma once

#include <span>
#include <string>
#include <vector>

#include <mllama/io/npy.hpp>
#include <mllama/io/output_folder.hpp>
#include <mllama/io/safetensors_writer.hpp>
#include <mllama/observe/recorder.hpp>

/// What a recorder saw, in files.

namespace mllama {

/// One safetensors file, a float32 tensor for each tap: `hidden_states.3`.
/// Errors:  file_error, with the system's reason; the file is complete or not there.
inline void write_records(const std::string& path, std::span<const Recorder::Record> records, const Metadata& metadata = {}) {
  std::vector<FileTensor> tensors;
  for (const Recorder::Record& record : records) {
    tensors.push_back({record.name, Dtype::F32, record.shape, std::as_bytes(std::span(record.values))});
  }
  write_safetensors(path, tensors, metadata);
}

/// A new folder with a file of NumPy's for each tap: `hidden_states.3.npy`.
/// Errors:  file_error, with the system's reason; the folder is complete or not there.
inline void write_records_as_npy(const std::string& folder, std::span<const Recorder::Record> records) {
  OutputFolder files(folder);
  for (const Recorder::Record& record : records) {
    const std::string header = detail::npy_header(detail::npy_type<float>(), record.shape);
    detail::NewFile& file = files.create_file(concat(record.name, ".npy"));
    file.write(0, std::as_bytes(std::span(header)));
    file.write(header.size(), std::as_bytes(std::span(record.values)));
  }
  files.commit();
}

}  // namespace mllama
