// SPDX-License-Identifier: MIT
// A matrix of bitsandbytes: the JSON of its quantisation state, a NUL, and choices of sizes and of what is wrong with the tensors
// beside it. Each tensor lies in memory of its own, so that a sanitizer sees a read beyond it.
#include <algorithm>
#include <array>
#include <bit>
#include <deque>
#include <mllama/core/format.hpp>
#include <mllama/io/bitsandbytes.hpp>
#include <span>

#include "fuzz.hpp"
#include "use_folder.hpp"

using mllama::Dtype;
using mllama::FileTensor;
using mllama::Shape;
using mllama::TensorOfFile;

namespace {

enum class Damage : unsigned char { none, absent, longer, shorter, other_type, other_bytes, count };

/// The tensors of one matrix, one of which may be damaged.
class Parts {
 public:
  explicit Parts(mllama_fuzz::Choices choices)
      : victim_(choices.below(8)),
        damage_(static_cast<Damage>(choices.below(static_cast<std::size_t>(Damage::count)))),
        other_type_(static_cast<Dtype>(choices.below(mllama::detail::dtype_facts.size()))),
        misalignment_(choices.below(16)),
        fill_(choices.left()) {}

  /// A tensor filled with `content`, or with the input's bytes where there is none. May be absent.
  TensorOfFile add(std::string name, Dtype dtype, std::size_t count, std::span<const std::byte> content = {}) {
    const Damage damage = number_++ == victim_ ? damage_ : Damage::none;
    if (damage == Damage::absent) return {};
    if (damage == Damage::longer) ++count;
    if (damage == Damage::shorter && count != 0) --count;
    if (damage == Damage::other_type) dtype = other_type_;
    if (damage == Damage::other_bytes) content = {};
    const std::size_t bytes = count * mllama::bits(dtype) / 8;
    std::vector<std::byte>& memory = memory_.emplace_back(misalignment_ + bytes);  // a vector of this size has no more
    const auto filled = std::ranges::copy(content.first(std::min(content.size(), bytes)), memory.begin() + offset()).out;
    for (auto at = filled; at != memory.end() && !fill_.empty(); ++at)
      *at = static_cast<std::byte>(fill_[static_cast<std::size_t>(at - filled) % fill_.size()]);
    tensors_.push_back({std::move(name), dtype, {count}, std::span(memory).subspan(misalignment_)});
    return {&tensors_.back(), "file"};
  }

 private:
  [[nodiscard]] std::ptrdiff_t offset() const { return static_cast<std::ptrdiff_t>(misalignment_); }

  std::size_t victim_;
  Damage damage_;
  Dtype other_type_;
  std::size_t misalignment_;
  std::string_view fill_;
  std::size_t number_ = 0;
  std::deque<std::vector<std::byte>> memory_;
  std::deque<FileTensor> tensors_;
};

struct Sizes {
  std::size_t rows, columns, block, nested_block;
  bool nested;
};

template <class F>
void read_blocks(const mllama_fuzz::TwoParts& input, const char* type, Dtype label, const Sizes& sizes, Parts& parts) {
  const auto quotient_up = [](std::size_t a, std::size_t b) { return (a + b - 1) / b; };
  const std::size_t count = sizes.rows * sizes.columns, blocks = quotient_up(count, sizes.block);
  const std::size_t item = std::max<std::size_t>(mllama::bits(label) / 8, 1);
  const TensorOfFile weight = parts.add("w", label, quotient_up(quotient_up(count, 2), item));
  if (!weight.present()) return;
  mllama::QuantizedTensor matrix(weight);
  const auto add = [&](const std::string& suffix, Dtype dtype, std::size_t size, std::span<const std::byte> content = {}) {
    const TensorOfFile part = parts.add("w" + suffix, dtype, size, content);
    if (part.present()) matrix.add(part, std::string_view(part.tensor->name).substr(1));
  };
  add(mllama::concat(".quant_state.bitsandbytes__", type), Dtype::U8, input.json.size(), std::as_bytes(std::span(input.json)));
  add(".quant_map", Dtype::F32, 16, std::as_bytes(std::span(F::table)));
  add(".absmax", sizes.nested ? Dtype::U8 : Dtype::F32, blocks);
  if (sizes.nested) {
    add(".nested_absmax", Dtype::F32, quotient_up(blocks, sizes.nested_block));
    add(".nested_quant_map", Dtype::F32, 256);
  }
  if (matrix.type() != type) return;  // what is not a quantised matrix is not read as one
  mllama::Elements elements;
  mllama_fuzz::use(matrix.read<F>(Shape{sizes.rows, sizes.columns}, elements));
}

void read_rows(const Sizes& sizes, Parts& parts) {
  const mllama::Int8Tensor matrix{.weight = parts.add("weight", Dtype::I8, sizes.rows * sizes.columns),
                                  .scales = parts.add("SCB", Dtype::F32, sizes.rows),
                                  .layout = parts.add("weight_format", Dtype::U8, 1, std::array{std::byte{0}})};
  // The shape is the caller's to check.
  if (!matrix.weight.present() || matrix.weight.tensor->size() != sizes.rows * sizes.columns || !matrix.quantized()) return;
  mllama::Elements elements;
  mllama_fuzz::use(matrix.read<mllama::Int8>(Shape{sizes.rows, sizes.columns}, elements));
}

}  // namespace

std::vector<std::string> mllama_fuzz::seeds() {
  const auto state = [](const char* type, std::size_t block, const char* shape, const char* more = "") {
    return mllama::concat(R"({"quant_type":")", type, R"(","blocksize":)", block, R"(,"dtype":"bfloat16","shape":)", shape, more,
                          "}");
  };
  constexpr const char* nested = R"(,"nested_blocksize":256,"nested_dtype":"float32","nested_offset":0.0345)";
  const auto choices = [](std::initializer_list<int> bytes) {
    std::string text(1, '\0');
    for (const int byte : bytes) text += static_cast<char>(byte);
    return text + "\x3f";
  };
  // format, label, rows - 1, columns - 1, log2 of block and nested block, nested; victim, damage, other type, misalignment
  return {state("nf4", 64, "[5,27]") + choices({0, 0, 4, 26, 6, 8, 0, 7, 0, 0, 0}),
          state("nf4", 32, "[9,64]", nested) + choices({0, 0, 8, 63, 5, 8, 1, 7, 0, 0, 0}),
          state("fp4", 32, "[9,64]", nested) + choices({1, 13, 8, 63, 5, 8, 1, 7, 0, 0, 0}),
          state("nf4", 64, "[5,27]") + choices({0, 17, 4, 26, 6, 8, 0, 3, 3, 0, 3}), choices({2, 0, 4, 26, 0, 0, 0, 7, 0, 0, 0})};
}

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const mllama_fuzz::TwoParts input(mllama_fuzz::text_of(data, size));
  mllama_fuzz::Choices choices(input.rest);
  const std::size_t format = choices.below(3);
  // 0: the usual label of bytes.
  const std::size_t label = choices.below(mllama::detail::dtype_facts.size());
  const Sizes sizes{.rows = choices.below(128) + 1,
                    .columns = choices.below(128) + 1,
                    .block = std::size_t{1} << choices.below(16),
                    .nested_block = std::size_t{1} << choices.below(16),
                    .nested = choices.below(2) != 0};
  Parts parts(choices);
  mllama_fuzz::takes([&] {
    const Dtype dtype = label == 0 ? Dtype::U8 : static_cast<Dtype>(label);
    if (format == 0) read_blocks<mllama::NF4>(input, "nf4", dtype, sizes, parts);
    if (format == 1) read_blocks<mllama::FP4>(input, "fp4", dtype, sizes, parts);
    if (format == 2) read_rows(sizes, parts);
  });
  return 0;
}
