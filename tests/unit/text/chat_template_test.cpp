// SPDX-License-Identifier: MIT
#include <mllama/text/chat_template.hpp>

#include <doctest/doctest.h>

#include <fstream>
#include <map>
#include <optional>
#include <string>
#include <vector>

using namespace mllama;

namespace {

using Kind = JsonView::Kind;
using Fields = std::map<std::string, JsonView>;

Fields fields(JsonView object) {
  Fields out;
  object.for_each_member([&](JsonView key, JsonView value) { out.emplace(key.string(), value); });
  return out;
}

/// A message of Hugging Face's form; nothing if it has no counterpart here.
std::optional<Message> message(JsonView value) {
  const Fields in = fields(value);
  Message out{.role = in.at("role").string(), .content = ""};
  if (const auto content = in.find("content"); content != in.end()) {
    const bool tool = out.role == "tool" || out.role == "ipython";
    if (content->second.kind() == Kind::string) {
      out.content = content->second.string();
    } else if (tool || content->second.kind() != Kind::array) {
      out.content = JsonText{std::string(content->second.text())};
    } else {
      std::vector<ContentPart> parts;
      content->second.for_each_element([&](JsonView part) {
        const Fields kind = fields(part);
        if (kind.at("type").string() == "text") parts.emplace_back(kind.at("text").string());
        if (kind.at("type").string() == "image") parts.emplace_back(ImagePart{});
      });
      out.content = std::move(parts);
    }
  }
  if (const auto calls = in.find("tool_calls"); calls != in.end()) {
    calls->second.for_each_element([&](JsonView call) {
      const Fields function = fields(fields(call).at("function"));
      out.tool_calls.push_back({function.at("name").string(), {std::string(function.at("arguments").text())}});
    });
    if (out.tool_calls.empty()) return std::nullopt;  // an empty list is an error there and the usual thing here
  }
  return out;
}

const Message hi{.role = "user", .content = "Hi"};

std::string render(std::vector<Message> messages, ChatOptions options = {}) {
  options.date = "26 Jul 2024";
  return render_chat(messages, options);
}

}  // namespace

TEST_CASE("prompts are those of the templates") {
  const std::string path = std::string(MLLAMA_TEST_DATA) + "/golden/tokenizer/chat.jsonl";
  std::ifstream file(path);
  int prompts = 0, errors = 0;
  for (std::string line; std::getline(file, line);) {
    CAPTURE(line);
    const Fields row = fields(JsonView::parse(line, path));
    const auto truth = [&](const char* key, bool fallback) { return row.contains(key) ? row.at(key).text() == "true" : fallback; };
    std::vector<Message> messages;
    bool expressible = true;
    row.at("messages").for_each_element([&](JsonView value) {
      if (auto read = message(value)) {
        messages.push_back(*std::move(read));
      } else {
        expressible = false;
      }
    });
    if (!expressible) continue;
    ChatOptions options;
    if (row.at("template").string() == "plain") options.chat_template = ChatTemplate::plain;
    options.date = row.contains("date_string") ? row.at("date_string").string() : "26 Jul 2024";
    options.add_generation_prompt = truth("add_generation_prompt", false);
    options.tools_in_user_message = truth("tools_in_user_message", true);
    for (const char* key : {"tools", "custom_tools"}) {
      if (!row.contains(key)) continue;
      options.tools.emplace();
      row.at(key).for_each_element([&](JsonView tool) { options.tools->push_back({std::string(tool.text())}); });
    }
    if (row.contains("error")) {
      ++errors;
      CHECK_THROWS_WITH_AS(static_cast<void>(render_chat(messages, options)),
                           concat("messages: ", row.at("error").string()).c_str(), input_error);
    } else {
      ++prompts;
      CHECK(render_chat(messages, options) == row.at("text").string());
    }
  }
  CHECK(prompts > 60);
  CHECK(errors >= 3);
}

TEST_CASE("roles, parts and results of tools") {
  const std::string answer = "<|start_header_id|>assistant<|end_header_id|>\n\n";
  const std::string system =
      "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\nToday Date: 26 Jul "
      "2024\n\n";
  CHECK(render({hi}) == system + "<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>" + answer);

  const Message in_parts{.role = "system", .content = std::vector<ContentPart>{" Be ", "brief. "}};
  CHECK(render({in_parts, hi}, {.add_generation_prompt = false}) ==
        system + "Be brief.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>");

  const auto result = [&](auto content) {
    const std::string text = render({hi, {.role = "tool", .content = content}}, {.add_generation_prompt = false});
    const std::string_view header = "<|start_header_id|>ipython<|end_header_id|>\n\n";
    return text.substr(text.find(header) + header.size());
  };
  CHECK(result(JsonText{R"({"a":[1,"\u00e9"]})"}) == R"({"a": [1, "é"]}<|eot_id|>)");
  CHECK(result(JsonText{"true"}) == "True<|eot_id|>");
  CHECK(result(JsonText{"null"}) == "None<|eot_id|>");
  CHECK(result(JsonText{"2.50"}) == "2.5<|eot_id|>");
  CHECK(result(std::string("a \"b\"\n")) == R"("a \"b\"\n"<|eot_id|>)");
  CHECK(result(std::vector<ContentPart>{"x\n"}) == R"([{"type": "text", "text": "x\n"}]<|eot_id|>)");
}

TEST_CASE("what the templates have no place for is an error") {
  const Message picture{.role = "user", .content = std::vector<ContentPart>{ImagePart{}, "Hi"}};
  const Message call{.role = "assistant", .content = "", .tool_calls = {{"f", {"{}"}}}};
  const ChatOptions with_tools{.tools = std::vector<JsonText>{{"{}"}}};
  CHECK_THROWS_AS(static_cast<void>(render({})), input_error);
  CHECK_THROWS_AS(static_cast<void>(render({picture}, with_tools)), input_error);
  CHECK_THROWS_AS(static_cast<void>(render({{.role = "system", .content = std::vector<ContentPart>{ImagePart{}}}, hi})),
                  input_error);
  CHECK_THROWS_AS(static_cast<void>(render({{.role = "user", .content = JsonText{"{}"}}})), input_error);
  CHECK_THROWS_AS(static_cast<void>(render({{.role = "system", .content = JsonText{"{}"}}})), input_error);
  CHECK_THROWS_AS(static_cast<void>(render({hi, call}, {.chat_template = ChatTemplate::plain})), input_error);
  CHECK_THROWS_AS(static_cast<void>(render({hi}, {.chat_template = ChatTemplate::plain, .tools = std::vector<JsonText>{}})),
                  input_error);
  CHECK_THROWS_WITH_AS(static_cast<void>(render({hi}, {.tools = std::vector<JsonText>{{"{}"}, {"{"}}})),
                       "tools[1]: byte 1: expected a key, found the end of the text", format_error);
  CHECK_THROWS_AS(static_cast<void>(render({hi, {.role = "assistant", .content = "", .tool_calls = {{"f", {"{]"}}}}})),
                  format_error);
  CHECK(render({}, {.chat_template = ChatTemplate::plain}) == "<|start_header_id|>assistant<|end_header_id|>\n\n");
}

TEST_CASE("today has the form of a date") {
  const std::string date = today();
  CHECK(date.size() == 11);
  CHECK(date[2] == ' ');
  CHECK(date[6] == ' ');
  CHECK(date.substr(7, 2) == "20");
  const std::string prompt = render_chat(std::vector<Message>{hi});
  CHECK(prompt.find("Today Date: ") != std::string::npos);
}

TEST_CASE("templates are recognised, and unknown ones are not guessed") {
  const std::string plain =
      "{% for message in messages %}{% if loop.index0 == 0 %}{{ bos_token }}{% endif %}"
      "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}{% if message['content'] is string %}{{ "
      "message['content'] }}"
      "{% else %}{% for content in message['content'] %}{% if content['type'] == 'image' %}{{ '<|image|>' }}{% elif "
      "content['type'] == 'text' %}"
      "{{ content['text'] }}{% endif %}{% endfor %}{% endif %}{{ '<|eot_id|>' }}{% endfor %}"
      "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}";
  CHECK(chat_template_of(plain) == ChatTemplate::plain);
  CHECK(chat_template_of(detail::plain_template) == ChatTemplate::plain);
  const std::string parts[] = {"Cutting Knowledge Date: December 2023\\n",
                               "Prompting with images is incompatible with system messages.",
                               "if not tools_in_user_message is defined", "{{- '<|image|>' }}"};
  CHECK(chat_template_of(concat(parts[0], parts[1], parts[2], parts[3])) == ChatTemplate::llama_3_2);
  CHECK(chat_template_of(concat(parts[0], parts[2])) == ChatTemplate::llama_3_2);  // Llama 3.1 and 3.2 without pictures
  for (const std::string& text :
       {std::string(), parts[0], parts[2], std::string("{{ messages[0].content }}"), concat(parts[0], parts[1], parts[2]),
        concat(parts[0], parts[2], parts[3]), concat(plain, "{% if tools %}"), plain.substr(1)}) {
    CHECK_THROWS_AS(static_cast<void>(chat_template_of(text)), format_error);
  }
}
