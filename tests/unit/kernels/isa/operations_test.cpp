// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include <mllama/kernels/matmul.hpp>

#include "../operands.hpp"
#include "emulated.hpp"

namespace mllama_test {

struct Operands {
  std::array<std::uint8_t, 128> bytes{};
  std::array<std::int8_t, 128> signed_bytes{}, extreme_bytes{};
  std::array<std::int16_t, 128> words{};
  std::array<std::uint16_t, 128> halves{}, other_halves{}, bfloats{}, other_bfloats{};
  std::array<float, 128> any_floats{};
  std::array<float, 128> floats{};
  std::array<float, 256> table{};
  mllama::kernels::isa::ByteBook byte_book{};
  mllama::kernels::isa::WordBook word_book{};
  mllama::kernels::isa::FloatBook float_book{};

  explicit Operands(Random& random) {
    for (auto& byte : bytes) byte = static_cast<std::uint8_t>(random.below(256));
    for (auto& byte : signed_bytes) byte = static_cast<std::int8_t>(static_cast<int>(random.below(255)) - 127);
    for (auto& byte : extreme_bytes) byte = static_cast<std::int8_t>(random.below(2) == 0 ? -127 : 127);
    for (auto& word : words) word = static_cast<std::int16_t>(static_cast<int>(random.below(16383)) - 8191);
    for (auto& half : halves) half = static_cast<std::uint16_t>(0x3000U + random.below(0x1000));
    for (auto& half : other_halves) half = static_cast<std::uint16_t>(random.below(2) << 15U | (0x3000U + random.below(0x1000)));
    for (auto* numbers : {&bfloats, &other_bfloats}) {
      for (auto& number : *numbers) number = any_bfloat(random);
    }
    for (auto& number : any_floats) {
      number = std::bit_cast<float>(std::uint32_t{any_bfloat(random)} << 16U | static_cast<std::uint32_t>(random.below(65536)));
    }
    for (auto& number : floats) number = random.normal();
    for (auto& number : table) number = random.normal();
    for (auto& entry : byte_book) entry = static_cast<std::uint8_t>(random.below(256));
    for (auto& entry : word_book) entry = static_cast<std::int16_t>(random.below(65536));
    for (auto& entry : float_book) entry = random.normal();
  }

 private:
  /// Of any exponent, near 1, near the smallest, or a special one.
  static std::uint16_t any_bfloat(Random& random) {
    constexpr std::array<std::uint16_t, 9> special{0x7f80, 0xff80, 0x7fc0, 0x0000, 0x8000, 0x0001, 0x807f, 0x7f7f, 0x0080};
    const std::size_t sign_and_fraction = random.below(2) << 15U | random.below(128);
    switch (random.below(8)) {
      case 0:
        return static_cast<std::uint16_t>(random.below(65536));
      case 1:
        return special[random.below(special.size())];
      case 2:
        return static_cast<std::uint16_t>(sign_and_fraction | random.below(3) << 7U);
      default:
        return static_cast<std::uint16_t>(sign_and_fraction | (0x30 + random.below(0x60)) << 7U);
    }
  }
};

class Results {
 public:
  void add(const char* name, const void* value, std::size_t size) {
    all.emplace_back(name, std::vector<unsigned char>(size));
    std::memcpy(all.back().second.data(), value, size);
  }
  std::vector<std::pair<std::string, std::vector<unsigned char>>> all;
};

}  // namespace mllama_test

namespace {

using namespace mllama;
using namespace mllama::kernels;
using mllama_test::Emulated;
using mllama_test::Operands;
using mllama_test::Random;
using mllama_test::Results;

namespace scalar {
#define MLLAMA_TARGET
#include "operations.inc"
#undef MLLAMA_TARGET
}  // namespace scalar

#if MLLAMA_HAS_X86_BODIES
namespace avx2 {
#define MLLAMA_TARGET MLLAMA_AVX2
#include "operations.inc"
#undef MLLAMA_TARGET
}  // namespace avx2
namespace avx_vnni {
#define MLLAMA_TARGET MLLAMA_AVX_VNNI
#include "operations.inc"
#undef MLLAMA_TARGET
}  // namespace avx_vnni
namespace avx512 {
#define MLLAMA_TARGET MLLAMA_AVX512
#include "operations.inc"
#undef MLLAMA_TARGET
}  // namespace avx512
namespace avx512_vnni {
#define MLLAMA_TARGET MLLAMA_AVX512_VNNI
#include "operations.inc"
#undef MLLAMA_TARGET
}  // namespace avx512_vnni
namespace avx512_bf16 {
#define MLLAMA_TARGET MLLAMA_AVX512_BF16
#include "operations.inc"
#undef MLLAMA_TARGET
}  // namespace avx512_bf16
namespace avx512_amx {
#define MLLAMA_TARGET MLLAMA_AVX512_BF16
#include "operations.inc"
#undef MLLAMA_TARGET
}  // namespace avx512_amx
#endif
#if MLLAMA_HAS_NEON_BODIES
namespace neon_dot {
#define MLLAMA_TARGET MLLAMA_NEON_DOT
#include "operations.inc"
#undef MLLAMA_TARGET
}  // namespace neon_dot
#endif

/// Compares an instruction set with its emulation, if this processor has it.
template <class Shape>
void compare(InstructionSet set, void (*operations)(const Operands&, Results&)) {
  CHECK(Shape::name == name_of(set));
  if (!available(set)) {
    MESSAGE("skipped: this processor has no ", std::string(name_of(set)));
    return;
  }
  for (unsigned seed = 1; seed <= 50; ++seed) {
    CAPTURE(seed);
    Random random(seed);
    const Operands operands(random);
    Results found, expected;
    operations(operands, found);
    scalar::operations<Emulated<Shape>>(operands, expected);
    REQUIRE(found.all.size() == expected.all.size());
    for (std::size_t i = 0; i < found.all.size(); ++i) {
      CAPTURE(found.all[i].first);
      CHECK(found.all[i] == expected.all[i]);
    }
  }
}

}  // namespace

TEST_CASE("each operation of an instruction set is that of its scalar emulation") {
#if MLLAMA_HAS_X86_BODIES
  SUBCASE("avx2") { compare<isa::Avx2Shape>(InstructionSet::avx2, avx2::operations<isa::Avx2>); }
  SUBCASE("avxvnni") { compare<isa::AvxVnniShape>(InstructionSet::avx_vnni, avx_vnni::operations<isa::AvxVnni>); }
  SUBCASE("avx512") { compare<isa::Avx512Shape>(InstructionSet::avx512, avx512::operations<isa::Avx512>); }
  SUBCASE("avx512vnni") { compare<isa::Avx512VnniShape>(InstructionSet::avx512_vnni, avx512_vnni::operations<isa::Avx512Vnni>); }
  SUBCASE("avx512bf16") { compare<isa::Avx512Bf16Shape>(InstructionSet::avx512_bf16, avx512_bf16::operations<isa::Avx512Bf16>); }
  SUBCASE("avx512amx") { compare<isa::Avx512AmxShape>(InstructionSet::avx512_amx, avx512_amx::operations<isa::Avx512Amx>); }
#elif MLLAMA_HAS_NEON_BODIES
  SUBCASE("neondot") { compare<isa::NeonDotShape>(InstructionSet::neon_dot, neon_dot::operations<isa::NeonDot>); }
#else
  MESSAGE("skipped: no instruction set of this architecture has bodies");
#endif
}

TEST_CASE_TEMPLATE("the order of decoded weights has each weight of a step once, and leaves slots together", Shape, isa::Avx2Shape,
                   isa::Avx512Shape, isa::NeonDotShape) {
  for (const std::size_t width : {std::size_t{1}, std::size_t{2}, std::size_t{4}}) {
    CAPTURE(width);
    const std::size_t step = 2 * Shape::bytes, lanes = Shape::bytes / width;
    std::vector<bool> seen(step);
    for (std::size_t position = 0; position < step; ++position) {
      const std::size_t weight = Shape::Order::weight(Shape::bytes, width, position);
      REQUIRE(weight < step);
      CHECK(!seen[weight]);
      seen[weight] = true;
      if (step > isa::slot) CHECK(weight / isa::slot == position % lanes / (lanes * isa::slot / step));
    }
  }
}
