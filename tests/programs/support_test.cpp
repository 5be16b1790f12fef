// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <mllama/io/mapped_file.hpp>
#include <unit/io/temporary_folder.hpp>

#include "../../examples/support/adapters.hpp"
#include "../../examples/support/arguments.hpp"
#include "../../examples/support/command_line.hpp"
#include "../../examples/support/measurements.hpp"
#include "../../examples/support/picture.hpp"
#include "../../examples/support/progress.hpp"
#include "../../examples/support/summary.hpp"
#include "../../examples/support/terminal.hpp"
#include "../../examples/support/words.hpp"

using namespace support;

namespace {

mllama::Image picture(std::size_t width, std::size_t height, std::vector<std::uint8_t> pixels) {
  mllama::Image image(width, height);
  image.pixels = std::move(pixels);
  return image;
}

std::size_t characters(std::string_view text) {
  return static_cast<std::size_t>(
      std::ranges::count_if(text, [](char c) { return (static_cast<unsigned char>(c) & 0xc0U) != 0x80; }));
}

std::size_t occurrences(std::string_view text, std::string_view part) {
  std::size_t count = 0;
  for (std::size_t at = text.find(part); at != text.npos; at = text.find(part, at + part.size())) ++count;
  return count;
}

}  // namespace

TEST_CASE("a terminal's colours") {
  struct Row {
    std::string_view term, colorterm, no_color;
    Colours expected;
  };
  for (const Row& row :
       {Row{"xterm-256color", "truecolor", "", Colours::direct}, Row{"xterm-256color", "24bit", "", Colours::direct},
        Row{"xterm-direct", "", "", Colours::direct}, Row{"xterm-kitty", "", "", Colours::direct},
        Row{"xterm-256color", "", "", Colours::palette}, Row{"xterm", "", "", Colours::palette},
        Row{"tmux", "", "", Colours::palette}, Row{"screen", "yes", "", Colours::palette},
        Row{"xterm-256color", "truecolor", "1", Colours::none}, Row{"dumb", "truecolor", "", Colours::none},
        Row{"", "truecolor", "", Colours::none}, Row{"vt100", "", "", Colours::none}, Row{"linux", "", "", Colours::none}}) {
    CAPTURE(row.term);
    CAPTURE(row.colorterm);
    CHECK(colours_of(row.term, row.colorterm, row.no_color) == row.expected);
  }
}

TEST_CASE("two pixels to a character") {
  const Terminal terminal{.escapes = true, .colours = Colours::direct};
  CHECK(half_blocks(picture(1, 2, {255, 0, 0, 0, 0, 255}), terminal) == "\x1b[38;2;255;0;0m\x1b[48;2;0;0;255m▀\x1b[0m\n");
  CHECK(half_blocks(picture(2, 1, {1, 2, 3, 1, 2, 3}), terminal) == "\x1b[38;2;1;2;3m▀▀\x1b[0m\n");  // no colour twice, none below
  const Terminal palette{.escapes = true, .colours = Colours::palette};
  CHECK(half_blocks(picture(1, 2, {255, 0, 0, 128, 128, 128}), palette) == "\x1b[38;5;196m\x1b[48;5;244m▀\x1b[0m\n");
}

TEST_CASE("a picture fits into the terminal") {
  for (const std::array<std::size_t, 2> size :
       {std::array<std::size_t, 2>{1, 1}, {2000, 1}, {1, 2000}, {300, 200}, {200, 300}, {7, 5}}) {
    const mllama::Image image(size[0], size[1]);
    for (const std::size_t columns : {1U, 2U, 20U, 80U, 500U}) {
      for (const std::size_t rows : {1U, 10U, 24U, 100U}) {
        CAPTURE(size[0]);
        CAPTURE(size[1]);
        CAPTURE(columns);
        CAPTURE(rows);
        const std::string text =
            half_blocks(image, {.escapes = true, .colours = Colours::direct, .columns = columns, .rows = rows});
        const std::size_t lines = occurrences(text, "\n"), blocks = occurrences(text, "▀");
        CHECK(lines >= 1);
        CHECK(lines <= std::max<std::size_t>(rows, 13) - 9);
        CHECK(blocks % lines == 0);
        CHECK(blocks / lines <= std::max<std::size_t>(columns - 1, 1));
      }
    }
  }
}

TEST_CASE("colours of the palette are their own nearest") {
  static constexpr std::array<std::uint8_t, 6> cube{0, 95, 135, 175, 215, 255};
  for (unsigned index = 0; index < 216; ++index) {
    const std::array rgb{cube[index / 36], cube[index / 6 % 6], cube[index % 6]};
    CHECK(support::detail::palette_index(rgb.data()) == 16 + index);
  }
  for (unsigned index = 0; index < 24; ++index) {
    const auto level = static_cast<std::uint8_t>(8 + 10 * index);
    const std::array rgb{level, level, level};
    CHECK(support::detail::palette_index(rgb.data()) == 232 + index);
  }
}

TEST_CASE("a bar is shorter than the terminal is wide, and grows") {
  CHECK(Progress::bar("Encoding", 0, 4, 25) == "Encoding ░░░░░░░░░   0 %");
  CHECK(Progress::bar("Encoding", 2, 4, 25) == "Encoding ████░░░░░  50 %");
  CHECK(Progress::bar("Encoding", 4, 4, 25) == "Encoding █████████ 100 %");
  CHECK(Progress::bar("Loading", 0, 0, 80) == "Loading");
  for (std::size_t columns = 1; columns < 100; ++columns) {
    CAPTURE(columns);
    std::size_t filled = 0;
    for (std::size_t done = 0; done <= 40; ++done) {
      const std::string bar = Progress::bar("Encoding", done, 40, columns);
      CHECK(characters(bar) < columns);
      CHECK(occurrences(bar, "█") >= filled);
      filled = occurrences(bar, "█");
    }
  }
}

TEST_CASE("timings stand in columns") {
  const Summary summary{
      .model = "pocket",
      .arithmetic = "f32 on avx2",
      .model_bytes = 2'025'504,
      .memory = 12'345'678'901,
      .threads = 1,
      .load = 0.0123,
      .total = 61.5,
      .chat = {.encode = 0.5, .prompt = 0.25, .decode = 60, .pictures = 2, .prompt_tokens = 17, .decoded_tokens = 1}};
  CHECK(summary.table() ==
        "load       0.012 s      2.0 MB   pocket, 1 thread, f32 on avx2\n"
        "encode     0.500 s        2 pictures\n"
        "prompt     0.250 s       17 tokens     68.0 tokens/s\n"
        "decode    60.000 s        1 token       0.0 tokens/s\n"
        "total     61.500 s     12.3 GB   peak memory\n");
  CHECK(Summary{}.table() ==
        "load       0.000 s      0.0 MB   , 0 threads, \n"
        "prompt     0.000 s        0 tokens\n"
        "decode     0.000 s        0 tokens\n"
        "total      0.000 s      0.0 MB   peak memory\n");
}

TEST_CASE("settings are the model's where the user says nothing") {
  mllama::GenerationSettings of_model;
  of_model.temperature = 0.6;
  of_model.top_p = 0.9;
  Arguments arguments;
  CHECK(arguments.settings(of_model).sampling->do_sample == false);
  CHECK(arguments.settings(of_model).numerics == mllama::profile::meta::numerics);
  arguments.top_p = 0.5;
  CHECK(arguments.settings(of_model).sampling->do_sample == true);
  CHECK(arguments.settings(of_model).sampling->temperature == 0.6);
  CHECK(arguments.settings(of_model).sampling->top_p == 0.5);
  arguments.greedy = true;
  CHECK(arguments.settings(of_model).sampling->do_sample == false);
}

TEST_CASE("a file that is cut short while it is mapped ends a program with a message and status 1") {
  const mllama_test::TemporaryFolder folder;
  const std::string path = folder.write("file", std::string(100'000, 'x'));
  int ends[2];
  REQUIRE(::pipe(ends) == 0);
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    ::dup2(ends[1], STDERR_FILENO);
    end_at_cut_files();
    const mllama::MappedFile file(path);
    const bool is_cut = ::truncate(path.c_str(), 10) == 0;
    ::_exit(is_cut && file.text()[90'000] == 'x' ? 2 : 3);
  }
  ::close(ends[1]);
  std::string said(200, '\0');
  said.resize(static_cast<std::size_t>(std::max<ssize_t>(0, ::read(ends[0], said.data(), said.size()))));
  ::close(ends[0]);
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 1);
  CHECK(said == "a file became shorter, or could not be read, while it was in use\n");
}

TEST_CASE("an adapter and its strength") {
  struct Row {
    std::string text, folder;
    double scale;
  };
  for (const Row& row : {Row{"a/b", "a/b", 1}, Row{"a/b=0.5", "a/b", 0.5}, Row{"a=b=-2", "a=b", -2}, Row{"a=1e-1", "a", 0.1}}) {
    CAPTURE(row.text);
    const AdapterArgument argument = adapter_argument(row.text);
    CHECK(argument.folder == row.folder);
    CHECK(argument.scale == row.scale);
  }
  for (const char* text : {"a=", "a=b", "a=1x", "a=0.5 "}) {
    CAPTURE(text);
    CHECK_THROWS_WITH_AS(static_cast<void>(adapter_argument(text)),
                         mllama::concat("--adapter: expected DIR or DIR=SCALE, found ", text).c_str(), mllama::input_error);
  }
}

TEST_CASE("measurements are a Markdown table, comma-separated values, or JSON") {
  const std::vector<Measurement> measurements{{.bench = "read", .policy = "avx2", .threads = 2, .value = 22.94, .unit = "GB/s"},
                                              {.bench = "tg at 0",
                                               .policy = "int16 avx2",
                                               .threads = 2,
                                               .value = 0.0512,
                                               .unit = "tokens/s",
                                               .share = 0.8,
                                               .limit = "read",
                                               .error = 1.3e-4,
                                               .spread = 0.1}};
  CHECK(table_of(measurements, Style::md) ==
        "| bench   | policy     | threads | value | unit     | share | limit |   error | spread |\n"
        "|---------|------------|---------|-------|----------|-------|-------|---------|--------|\n"
        "| read    | avx2       |       2 |  22.9 | GB/s     |       |       |         |        |\n"
        "| tg at 0 | int16 avx2 |       2 | 0.051 | tokens/s |  80 % | read  | 1.3e-04 |   ±5 % |\n");
  CHECK(table_of(measurements, Style::csv) ==
        "bench,policy,threads,value,unit,share,limit,error,spread\n"
        "read,avx2,2,22.94,GB/s,,,,\n"
        "tg at 0,int16 avx2,2,0.0512,tokens/s,0.8,read,0.00013,0.1\n");
  CHECK(
      table_of(measurements, Style::json) ==
      "[\n"
      R"( {"bench": "read", "policy": "avx2", "threads": 2, "value": 22.94, "unit": "GB/s", "share": null, "limit": null, "error": null, "spread": null},)"
      "\n"
      R"( {"bench": "tg at 0", "policy": "int16 avx2", "threads": 2, "value": 0.0512, "unit": "tokens/s", "share": 0.8, "limit": "read", "error": 0.00013, "spread": 0.1})"
      "\n]\n");
  CHECK(table_of({}, Style::json) == "[\n]\n");
}

TEST_CASE("a timing is the median of at least three runs after a first one") {
  int runs = 0;
  const Timing timing = time_of(0, [&] { ++runs; });
  CHECK(runs == 4);
  CHECK(timing.seconds >= 0);
  REQUIRE(timing.spread.has_value());
  CHECK(*timing.spread >= 0);
  const Timing once = time_of(1e-9, [&] {
    ++runs;
    for (const Stopwatch watch; watch.seconds() < 1e-6;) continue;
  });
  CHECK(runs == 5);
  CHECK(once.seconds >= 1e-6);
  CHECK(!once.spread.has_value());
}

TEST_CASE("the words that tokens spell") {
  const std::vector<std::string> tokens{"A", " pur", "ple", " star", ",", " don", "'t", " ask", ".", "", "\n", "caf\xc3\xa9", "!"};
  const auto words = words_of(tokens);
  std::string all;
  for (const Word& word : words) all += mllama::concat(word.text, ' ', word.first, '+', word.count, ' ');
  CHECK(all == "A 0+1 purple 1+2 star 3+1 don't 5+2 ask 7+1 caf\xc3\xa9 11+1 ");
  CHECK(words_of({}).empty());
  CHECK(words_of(std::vector<std::string>{"", ".", " "}).empty());

  CHECK(find_words(words, "PURPLE", "--word")[0].first == 1);
  CHECK(find_words(words_of(std::vector<std::string>{"a", " b", " A"}), "a", "--word").size() == 2);
  const auto problem = [&](std::span<const Word> of) {
    try {
      static_cast<void>(find_words(of, "ring", "--word"));
    } catch (const mllama::input_error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  CHECK(problem(words) == "--word: expected a word of the answer: A, purple, star, don't, ask, caf\xc3\xa9, found ring");
  CHECK(problem({}) == "--word: expected no word, since the answer has none, found ring");
}
