// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <array>
#include <bit>
#include <cstring>
#include <mllama/io/elements.hpp>

using namespace mllama;

TEST_CASE("elements are used in place where they are aligned and copied where not") {
  alignas(8) std::array<std::byte, 24> memory{};
  const std::array<float, 3> values{1.5F, -2, 3};
  Elements elements;
  for (const std::size_t offset : {0U, 1U, 4U, 7U}) {
    CAPTURE(offset);
    std::memcpy(memory.data() + offset, values.data(), sizeof values);
    const FileTensor tensor{"t", Dtype::F32, {3}, std::span(memory).subspan(offset, sizeof values)};
    const std::size_t before = elements.bytes();
    const float* const found = elements.of<float>(tensor);
    CHECK(std::ranges::equal(std::span(found, 3), values));
    CHECK((static_cast<const void*>(found) == memory.data() + offset) == (offset % 4 == 0));
    CHECK(elements.bytes() - before == (offset % 4 == 0 ? 0 : sizeof values));
  }
}

TEST_CASE("narrow floats widen exactly, aligned or not") {
  std::array<std::byte, 9> memory{};
  const std::array<std::uint16_t, 4> codes{0x3fc0, 0xc000, 0x0001, 0x7f80};
  std::memcpy(memory.data() + 1, codes.data(), sizeof codes);
  const std::span bytes = std::span<const std::byte>(memory).subspan(1);
  Elements elements;
  const float* const bf16 = elements.widened<BF16>(bytes);
  const float* const f16 = elements.widened<F16>(bytes);
  for (std::size_t i = 0; i < codes.size(); ++i) {
    CHECK(std::bit_cast<std::uint32_t>(bf16[i]) == std::uint32_t{codes[i]} << 16U);
    CHECK(std::bit_cast<std::uint32_t>(f16[i]) == std::bit_cast<std::uint32_t>(F16::decode(codes[i])));
  }
  CHECK(bf16[0] == 1.5F);
  CHECK(f16[1] == -2);
  CHECK(elements.bytes() == 32);
}
