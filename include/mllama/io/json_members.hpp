// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <mllama/core/json.hpp>
#include <mllama/core/python_json.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace mllama {

/// A member that an object is to have, or not to have.
struct JsonMember {
  std::string key;
  std::optional<std::string> value;  ///< JSON text; none: no such member
};

namespace detail {

/// A member as it is to be written.
struct JsonMemberText {
  std::string key, text;
};

[[nodiscard]] inline JsonMemberText indented_member(const JsonMember& member, std::string_view file) {
  std::string text = python_string(member.key) + ": ";
  append_python_json(text, JsonView::parse(*member.value, file), file, 2, 1);
  return {member.key, std::move(text)};
}

}  // namespace detail

/// The text of a JSON object with other members at its top level: `config.json` of a model that is saved anew. A change replaces
/// the member in its place, removes it, or adds it in front of the first key that sorts behind it. All other members keep their
/// text; new values are laid out as Python's `json.dumps(…, indent=2)` does, and the object is one line per member, as that.
/// Errors:  format_error with `file` if the text is no JSON object or a new value is no JSON.
[[nodiscard]] inline std::string with_members(std::string_view text, std::string_view file, std::span<const JsonMember> changes) {
  const JsonField root = parse_json(text, std::string(file));
  std::vector<detail::JsonMemberText> members;
  root.view(JsonView::Kind::object, "an object").for_each_member([&](JsonView key, JsonView value) {
    const char* const end = value.text().data() + value.text().size();
    members.push_back({key.string(), std::string(key.text().data(), end)});
  });
  for (const JsonMember& change : changes) {
    auto place = members.begin();
    while (place != members.end() && place->key != change.key) ++place;
    const bool present = place != members.end();
    if (!change.value) {
      if (present) members.erase(place);
      continue;
    }
    detail::JsonMemberText member = detail::indented_member(change, file);
    if (present) {
      *place = std::move(member);
    } else {
      place = members.begin();
      while (place != members.end() && place->key < change.key) ++place;
      members.insert(place, std::move(member));
    }
  }
  std::string out = "{";
  for (const auto& [key, member] : members) out += concat(out.size() == 1 ? "\n  " : ",\n  ", member);
  out += members.empty() ? "}" : "\n}";
  const std::string_view object = root.view().text();
  return out.append(text.substr(static_cast<std::size_t>(object.data() - text.data()) + object.size()));  // Python's last newline
}

}  // namespace mllama
