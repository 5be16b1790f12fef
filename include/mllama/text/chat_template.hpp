// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <ctime>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include <mllama/core/check.hpp>
#include <mllama/core/python_json.hpp>
#include <mllama/core/unicode.hpp>
#include <mllama/text/prompt.hpp>

/// The prompt of a conversation, written as the chat templates of Mllama's checkpoints write it, without an interpreter for them.

namespace mllama {

/// The place of a picture in a message.
struct ImagePart {};

/// Text, or the place of a picture.
using ContentPart = std::variant<std::string, ImagePart>;

/// A value given as JSON text. It enters the prompt in Python's spelling, see python_json.
struct JsonText {
  std::string text;
};

/// A call of a function that the model made in an earlier turn.
struct ToolCall {
  std::string name;
  JsonText arguments;
};

struct Message {
  std::string role;                                                       ///< "system", "user", "assistant", "tool", "ipython", …
  std::variant<std::string, std::vector<ContentPart>, JsonText> content;  ///< JSON only for the results of tools
  std::vector<ToolCall> tool_calls = {};                                  ///< if there is one, content is ignored
};

/// The templates that are known.
enum class ChatTemplate {
  llama_3_2,  ///< of the published Instruct checkpoints: system block with dates, tools, images
  plain,      ///< of transformers' conversion script: nothing but headers and contents
};

struct ChatOptions {
  ChatTemplate chat_template = ChatTemplate::llama_3_2;
  bool add_generation_prompt = true;  ///< end with the header of the assistant's answer
  std::string date = {};              ///< "26 Jul 2024"; today if empty. Part of every llama_3_2 prompt without pictures
  std::optional<std::vector<JsonText>> tools = std::nullopt;  ///< descriptions of functions; an empty list is not the same as none
  bool tools_in_user_message = true;  ///< describe them in the first message after the system's, not in the system's
};

namespace detail {

/// What of a template's text is compared: all but white space, also where it is spelt `\n`.
[[nodiscard]] inline std::string template_core(std::string_view jinja) {
  std::string core;
  for (std::size_t i = 0; i < jinja.size(); ++i) {
    if (jinja.substr(i, 2) == "\\n") {
      ++i;
    } else if (!is_python_space(static_cast<unsigned char>(jinja[i]))) {
      core += jinja[i];
    }
  }
  return core;
}

inline constexpr std::string_view plain_template =
    "{% for message in messages %}{% if loop.index0 == 0 %}{{ bos_token }}{% endif %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}{{ '<|image|>' }}{% elif content['type'] == 'text' %}{{ content['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{{ '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}";

}  // namespace detail

/// Which of the known templates the text of a checkpoint's Jinja template is.
/// Errors:  format_error when it is neither; a prompt in a wrong form would quietly make a model answer badly.
[[nodiscard]] inline ChatTemplate chat_template_of(std::string_view jinja, std::string_view file = "chat template") {
  const auto has = [jinja](std::string_view part) { return jinja.find(part) != jinja.npos; };
  // Published revisions differ in how the date is found, which ChatOptions decides here. Llama 3.1's and 3.2's without pictures are
  // what Vision's is where there are none; 3.1's may name built-in tools, which nobody does here.
  const bool takes_images = has("Prompting with images is incompatible with system messages.") && has(image_token);
  if (has("Cutting Knowledge Date: December 2023") && has("tools_in_user_message") && (takes_images || !has("image")))
    return ChatTemplate::llama_3_2;
  if (detail::template_core(jinja) == detail::template_core(detail::plain_template)) return ChatTemplate::plain;
  throw format_error(Fault{
      .file = std::string(file),
      .field = "chat_template",
      .expected = "the template of Llama 3.1, 3.2 or 3.2 Vision Instruct, or the plain one of transformers' conversion script",
      .found = "another one",
      .note = "choose a ChatTemplate if one of them will do"});
}

/// Today's date in local time, as Python's `strftime("%d %b %Y")` gives it in English.
[[nodiscard]] inline std::string today() {
  static constexpr std::string_view months[] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
  const std::time_t now = std::time(nullptr);
  std::tm date{};
  ::localtime_r(&now, &date);
  return concat(date.tm_mday < 10 ? "0" : "", date.tm_mday, ' ', months[date.tm_mon], ' ', date.tm_year + 1900);
}

namespace detail {

[[noreturn]] inline void fail_chat(std::string note, std::string field = "messages") {
  throw input_error(Fault{.field = std::move(field), .note = std::move(note)});
}

/// Writes one conversation. Contents are taken as they are; a role or text that spells a special token becomes one.
class ChatWriter {
 public:
  ChatWriter(std::span<const Message> messages, const ChatOptions& options) : messages_(messages), options_(options) {}

  std::string write() && {
    if (options_.chat_template == ChatTemplate::plain) {
      if (options_.tools) fail_chat("the plain chat template has no place for tools", "tools");
      if (!messages_.empty()) out_ += begin_of_text;
      for (const Message& message : messages_) plain_message(message);
    } else {
      out_ += begin_of_text;
      preamble();
      for (const Message& message : messages_) full_message(message);
    }
    if (options_.add_generation_prompt) header("assistant");
    return std::move(out_);
  }

 private:
  using Parts = std::vector<ContentPart>;

  void add(const auto&... parts) { out_ += concat(parts...); }
  void header(std::string_view role) { add(start_header, role, end_header, "\n\n"); }

  /// System block and tools. Takes the messages that it uses up off the list.
  void preamble() {
    if (messages_.empty()) fail_chat("there is none");
    std::string system;
    if (messages_.front().role == "system") {
      system = text_only(messages_.front());
      messages_ = messages_.subspan(1);
    }
    bool images = false;
    for (const Message& message : messages_)
      if (const auto* parts = std::get_if<Parts>(&message.content))
        for (const ContentPart& part : *parts) images = images || std::holds_alternative<ImagePart>(part);
    if (images && !system.empty()) fail_chat("Prompting with images is incompatible with system messages.");

    if (!images) {
      header("system");
      if (options_.tools) add("Environment: ipython\n");
      add("Cutting Knowledge Date: December 2023\nToday Date: ", options_.date.empty() ? today() : options_.date, "\n\n");
      if (options_.tools && !options_.tools_in_user_message)
        tools("You have access to the following functions. To call a function, please respond with JSON for a function call.");
      add(system, end_of_turn);
    }
    if (options_.tools && options_.tools_in_user_message) {
      if (messages_.empty()) fail_chat("Cannot put tools in the first user message when there's no first user message!");
      header("user");
      tools(
          "Given the following functions, please respond with a JSON for a function call with its proper arguments that best "
          "answers the "
          "given prompt.\n\n");
      add(text_only(messages_.front()), end_of_turn);
      messages_ = messages_.subspan(1);
    }
  }

  void tools(std::string_view introduction) {
    add(introduction, R"(Respond in the format {"name": function name, "parameters": dictionary of argument name and its value}.)",
        "Do not use variables.\n\n");
    for (std::size_t i = 0; i < options_.tools->size(); ++i)
      add(python_json((*options_.tools)[i].text, concat("tools[", i, ']'), 4), "\n\n");
  }

  void full_message(const Message& message) {
    if (!message.tool_calls.empty()) {
      if (message.tool_calls.size() > 1) fail_chat("This model only supports single tool-calls at once!");
      const ToolCall& call = message.tool_calls.front();
      header("assistant");
      add(R"({"name": ")", call.name, R"(", "parameters": )", python_json(call.arguments.text, "tool call's arguments"), '}',
          end_of_turn);
    } else if (message.role == "tool" || message.role == "ipython") {
      header("ipython");
      tool_result(message);
      add(end_of_turn);
    } else {
      plain_message(message);
    }
  }

  void plain_message(const Message& message) {
    if (!message.tool_calls.empty()) fail_chat("the plain chat template has no place for tool calls");
    header(message.role);
    if (const auto* text = std::get_if<std::string>(&message.content)) {
      add(*text);
    } else if (const auto* parts = std::get_if<Parts>(&message.content)) {
      for (const ContentPart& part : *parts) {
        const auto* const part_text = std::get_if<std::string>(&part);
        add(part_text != nullptr ? std::string_view(*part_text) : image_token);
      }
    } else {
      fail_chat(concat("the content of a message of role ", message.role, " is text or a list of parts, not JSON"));
    }
    add(end_of_turn);
  }

  void tool_result(const Message& message) {
    if (const auto* text = std::get_if<std::string>(&message.content)) {
      append_python_string(out_, *text);
    } else if (const auto* parts = std::get_if<Parts>(&message.content)) {  // the list of dictionaries that it is in Python
      add('[');
      for (const ContentPart& part : *parts) {
        if (&part != parts->data()) add(", ");
        if (const auto* part_text = std::get_if<std::string>(&part)) {
          add(R"({"type": "text", "text": )");
          append_python_string(out_, *part_text);
          add('}');
        } else {
          add(R"({"type": "image"})");
        }
      }
      add(']');
    } else {
      const std::string json = python_json(std::get<JsonText>(message.content).text, "tool result");
      // Values that Python cannot iterate over are printed as Python prints them.
      add(json == "true" ? "True" : json == "false" ? "False" : json == "null" ? "None" : std::string_view(json));
    }
  }

  /// The trimmed text of a message whose place in the template takes nothing else. Python would print a list of parts as a list;
  /// their text is what was meant.
  static std::string text_only(const Message& message) {
    std::string text;
    if (const auto* whole = std::get_if<std::string>(&message.content)) {
      text = *whole;
    } else if (const auto* parts = std::get_if<Parts>(&message.content)) {
      for (const ContentPart& part : *parts) {
        const auto* const part_text = std::get_if<std::string>(&part);
        if (part_text == nullptr)
          fail_chat("a system message, and the first message when tools are described in it, take no pictures");
        text += *part_text;
      }
    } else {
      fail_chat(concat("the content of a message of role ", message.role, " is text, not JSON"));
    }
    return std::string(trim(text));
  }

  std::span<const Message> messages_;
  const ChatOptions& options_;
  std::string out_;
};

}  // namespace detail

/// The prompt of a conversation, to be encoded without adding special tokens: it begins with `<|begin_of_text|>`.
/// Each picture is one `<|image|>`.
/// Errors:  input_error where the published template raises an exception (images together with a system text, several tool calls in
///          a message, no message for the tools, no message at all) and where it has no place for what is given; format_error
///          naming the tool whose JSON is invalid.
/// Deviation: a list of text parts as the system's content, or as the message that tools are put in, counts as their text.
/// Source:  `chat_template` of meta-llama/Llama-3.2-11B-Vision-Instruct; transformers' convert_mllama_weights_to_hf.py (plain).
template <class = void>  // so that a program can have it compiled elsewhere
[[nodiscard]] std::string render_chat(std::span<const Message> messages, const ChatOptions& options = {}) {
  return detail::ChatWriter(messages, options).write();
}
#if defined(MLLAMA_ELSEWHERE)
extern template std::string render_chat<>(std::span<const Message>, const ChatOptions&);
#endif

}  // namespace mllama
