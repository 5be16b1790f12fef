// SPDX-License-Identifier: MIT
#pragma once

#include <mllama/core/json.hpp>
#include <mllama/io/mapped_file.hpp>
#include <string>
#include <string_view>

namespace mllama {

/// Of files with settings, as Hugging Face saves them beside the weights.
inline constexpr JsonLimits settings_limits{.depth = 32, .values = 100'000, .bytes = std::size_t{4} << 20U};

/// A JSON file, open. Fields refer to its text, wherever the file is moved.
class JsonFile {
 public:
  /// Errors:  those of MappedFile and of JsonView::parse.
  explicit JsonFile(const std::string& path, const JsonLimits& limits = settings_limits)
      : file_(path), root_(parse_json(file_.text(), path, limits)) {}

  [[nodiscard]] const JsonField& root() const noexcept { return root_; }
  [[nodiscard]] std::string_view text() const noexcept { return file_.text(); }

 private:
  MappedFile file_;
  JsonField root_;
};

}  // namespace mllama
