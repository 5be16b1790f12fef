// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace mllama_test {

/// SHA-256 in hexadecimal digits.
/// Source:  FIPS 180-4
inline std::string sha256(std::span<const std::byte> message) {
  // The first 32 bits of the fractions of cube and square roots of the first primes.
  const auto fraction = [](double root) { return static_cast<std::uint32_t>((root - std::floor(root)) * 0x1p32); };
  std::vector<std::uint32_t> primes;
  for (std::uint32_t n = 2; primes.size() < 64; ++n) {
    bool prime = true;
    for (const std::uint32_t p : primes) prime = prime && n % p != 0;
    if (prime) primes.push_back(n);
  }
  std::array<std::uint32_t, 64> k{};
  std::array<std::uint32_t, 8> h{};
  for (std::size_t i = 0; i < 64; ++i) k[i] = fraction(std::cbrt(primes[i]));
  for (std::size_t i = 0; i < 8; ++i) h[i] = fraction(std::sqrt(primes[i]));

  std::vector<std::uint8_t> bytes(message.size());
  for (std::size_t i = 0; i < message.size(); ++i) bytes[i] = std::to_integer<std::uint8_t>(message[i]);
  bytes.push_back(0x80);
  while (bytes.size() % 64 != 56) bytes.push_back(0);
  for (unsigned shift = 64; shift != 0; shift -= 8) bytes.push_back(static_cast<std::uint8_t>(message.size() * 8 >> (shift - 8)));

  for (std::size_t at = 0; at < bytes.size(); at += 64) {
    std::array<std::uint32_t, 64> w{};
    for (std::size_t i = 0; i < 64; ++i) {
      if (i < 16) {
        for (std::size_t b = 0; b < 4; ++b) w[i] = w[i] << 8U | bytes[at + 4 * i + b];
      } else {
        const std::uint32_t a = w[i - 15], b = w[i - 2];
        w[i] = w[i - 16] + (std::rotr(a, 7) ^ std::rotr(a, 18) ^ a >> 3U) + w[i - 7] +
               (std::rotr(b, 17) ^ std::rotr(b, 19) ^ b >> 10U);
      }
    }
    auto s = h;
    for (std::size_t i = 0; i < 64; ++i) {
      const std::uint32_t t1 =
          s[7] + (std::rotr(s[4], 6) ^ std::rotr(s[4], 11) ^ std::rotr(s[4], 25)) + ((s[4] & s[5]) ^ (~s[4] & s[6])) + k[i] + w[i];
      const std::uint32_t t2 =
          (std::rotr(s[0], 2) ^ std::rotr(s[0], 13) ^ std::rotr(s[0], 22)) + ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));
      s = {t1 + t2, s[0], s[1], s[2], s[3] + t1, s[4], s[5], s[6]};
    }
    for (std::size_t i = 0; i < 8; ++i) h[i] += s[i];
  }
  std::string digits;
  for (const std::uint32_t word : h) {
    for (unsigned shift = 32; shift != 0; shift -= 4) digits += "0123456789abcdef"[word >> (shift - 4) & 15U];
  }
  return digits;
}

}  // namespace mllama_test
