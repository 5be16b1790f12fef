// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <mllama/core/check.hpp>
#include <mllama/core/context.hpp>

#include "stopwatch.hpp"

/// When which thread computed what: an observer of a context, and the file that Chrome's and Perfetto's viewers show.

namespace support {

/// Watches from `start` to `stop`, and costs a comparison per parallel region otherwise.
class Trace {
 public:
  void start(unsigned threads, std::size_t text_layers) {
    parts_.resize(threads);
    text_layers_ = text_layers;
    recording_ = true;
  }
  void stop() { recording_ = false; }
  /// What runs from now on: `prompt of 64 tokens`. Layers within it have lines of their own.
  void begin(std::string stage) { open(stages_, std::move(stage)); }
  void end() {
    close(layers_);
    close(stages_);
  }

  static constexpr bool wants(std::string_view tap) {
    return tap == "hidden_states" || tap == "vision_states" || tap == "vision_output" || tap == "cross_attention_states";
  }
  /// The hidden states that enter layer `tap.index` pass, or those that leave the last one.
  template <class V>
  void operator()(mllama::Tap tap, const V&) {
    if (!recording_) return;
    close(layers_);
    if (tap.index == mllama::Tap::no_index) return;
    const bool text = tap.name == "hidden_states";
    open(layers_, text && tap.index == text_layers_ ? "head" : mllama::concat(text ? "layer " : "vision layer ", tap.index));
  }

  template <class Run>
  void part(const char* function, const char* file, unsigned worker, Run&& run) {
    if (!recording_) return run();
    const double begin = clock_.seconds();
    run();
    parts_[worker].push_back({function, file, layers_.empty() ? none : layers_.size() - 1, begin, clock_.seconds()});
  }

  /// JSON of Chrome's trace format: complete events in microseconds; a row of stages, one of layers, and one for each thread.
  [[nodiscard]] std::string json() const {
    std::string text = R"({"displayTimeUnit": "ms", "traceEvents": [)";
    constexpr std::size_t stages = 0, layers = 1, first_thread = 2;
    name_row(text, stages, "stages");
    name_row(text, layers, "layers");
    for (std::size_t t = 0; t < parts_.size(); ++t) name_row(text, first_thread + t, mllama::concat("thread ", t));
    for (const Span& span : stages_) add(text, span.name, "stage", stages, span.begin, span.end);
    for (const Span& span : layers_) add(text, span.name, "layer", layers, span.begin, span.end);
    for (std::size_t t = 0; t < parts_.size(); ++t) {
      for (const Part& part : parts_[t]) {
        add(text, name_of(part), part.layer == none ? "" : layers_[part.layer].name, first_thread + t, part.begin, part.end);
      }
    }
    text.back() = ']';  // over the last comma
    return text + "}\n";
  }

 private:
  static constexpr std::size_t none = static_cast<std::size_t>(-1);
  struct Span {
    std::string name;
    double begin = 0, end = 0;
  };
  struct Part {
    const char *function, *file;
    std::size_t layer;
    double begin, end;
  };

  void open(std::vector<Span>& spans, std::string name) {
    if (recording_) spans.push_back({std::move(name), clock_.seconds(), -1});
  }
  void close(std::vector<Span>& spans) {
    if (recording_ && !spans.empty() && spans.back().end < 0) spans.back().end = clock_.seconds();
  }

  /// `multiply (matmul.hpp)`, without the arguments of templates; a lambda has no name of its own.
  static std::string name_of(const Part& part) {
    const std::string_view file(part.file), whole(part.function), function = whole.substr(0, whole.find('<'));
    const std::string_view base = file.substr(file.rfind('/') + 1);
    return function.starts_with("operator") ? std::string(base) : mllama::concat(function, " (", base, ')');
  }
  static void name_row(std::string& text, std::size_t row, std::string_view name) {
    text += mllama::concat("\n", R"({"name": "thread_name", "ph": "M", "pid": 1, "tid": )", row, R"(, "args": {"name": ")", name,
                           R"("}},)");
  }
  static void add(std::string& text, std::string_view name, std::string_view category, std::size_t row, double begin, double end) {
    const auto microseconds = [](double seconds) {
      const auto thousandths = static_cast<std::size_t>(seconds * 1e9);
      std::string fraction = mllama::concat(1000 + thousandths % 1000);
      fraction[0] = '.';
      return mllama::concat(thousandths / 1000, fraction);
    };
    text += mllama::concat("\n", R"({"name": ")", name, R"(", "cat": ")", category, R"(", "ph": "X", "pid": 1, "tid": )", row,
                           R"(, "ts": )", microseconds(begin), R"(, "dur": )", microseconds(end - begin), "},");
  }

  bool recording_ = false;
  std::size_t text_layers_ = 0;
  Stopwatch clock_;
  std::vector<Span> stages_, layers_;
  std::vector<std::vector<Part>> parts_;
};

}  // namespace support
