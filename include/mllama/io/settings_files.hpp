// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <mllama/io/output_folder.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace mllama {

/// Names of a model folder's small files, which a folder that is made from it has, too: settings, vocabulary, templates, texts. Not
/// the index of shards.
[[nodiscard]] inline std::vector<std::string> settings_files(const std::string& folder) {
  std::vector<std::string> names = detail::folder_content(folder).value_or(std::vector<std::string>{});
  std::erase_if(names, [](std::string_view name) {
    const bool is_text = name.ends_with(".json") || name.ends_with(".jinja") || name.ends_with(".model") ||
                         name.ends_with(".txt") || name.ends_with(".md");
    return !is_text || name.ends_with(".index.json");
  });
  std::ranges::sort(names);
  return names;
}

}  // namespace mllama
