#include "sha256.hpp"

#include <cstring>

#include "sha256_blocks.hpp"

namespace gne_sdk {

const std::array<uint32_t, 64> kSha256Rounds = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

namespace {

constexpr size_t kBlock = 64;
using State = Sha256State;

uint32_t turned(uint32_t value, int bits) { return value >> bits | value << (32 - bits); }

uint32_t big_endian(const uint8_t* bytes) {
  return uint32_t{bytes[0]} << 24 | uint32_t{bytes[1]} << 16 | uint32_t{bytes[2]} << 8 | bytes[3];
}

std::array<uint32_t, 64> schedule(const uint8_t* block) {
  std::array<uint32_t, 64> words;
  for (size_t i = 0; i < 16; ++i) words[i] = big_endian(block + 4 * i);
  for (size_t i = 16; i < 64; ++i) {
    const uint32_t a = words[i - 15], b = words[i - 2];
    const uint32_t s0 = turned(a, 7) ^ turned(a, 18) ^ a >> 3;
    const uint32_t s1 = turned(b, 17) ^ turned(b, 19) ^ b >> 10;
    words[i] = words[i - 16] + s0 + words[i - 7] + s1;
  }
  return words;
}

void add_block(State& state, const uint8_t* block) {
  const auto words = schedule(block);
  auto [a, b, c, d, e, f, g, h] = state;
  for (size_t i = 0; i < 64; ++i) {
    const uint32_t s1 = turned(e, 6) ^ turned(e, 11) ^ turned(e, 25);
    const uint32_t first = h + s1 + ((e & f) ^ (~e & g)) + kSha256Rounds[i] + words[i];
    const uint32_t s0 = turned(a, 2) ^ turned(a, 13) ^ turned(a, 22);
    const uint32_t second = s0 + ((a & b) ^ (a & c) ^ (b & c));
    h = g, g = f, f = e, e = d + first;
    d = c, c = b, b = a, a = first + second;
  }
  const State sums = {a, b, c, d, e, f, g, h};
  for (size_t i = 0; i < 8; ++i) state[i] += sums[i];
}

void add_blocks(State& state, const uint8_t* blocks, size_t count) {
  for (size_t i = 0; i < count; ++i) add_block(state, blocks + i * kBlock);
}

using AddBlocks = void (*)(State&, const uint8_t* blocks, size_t count);

// The end of the message, a one bit, zeros, and the length in bits: one or two blocks.
void add_end(State& state, Bytes rest, uint64_t total, AddBlocks add) {
  std::array<uint8_t, 2 * kBlock> end{};
  if (rest.size) std::memcpy(end.data(), rest.data, rest.size);
  end[rest.size] = 0x80;
  const size_t size = rest.size < kBlock - 8 ? kBlock : 2 * kBlock;
  for (size_t i = 0; i < 8; ++i) end[size - 1 - i] = static_cast<uint8_t>(total * 8 >> 8 * i);
  add(state, end.data(), size / kBlock);
}

std::string digest(Bytes bytes, AddBlocks add) {
  State state = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  const size_t whole = bytes.size / kBlock;
  add(state, bytes.data, whole);
  add_end(state, bytes.from(whole * kBlock), bytes.size, add);
  std::string digits;
  for (const uint32_t word : state) {
    for (int shift = 28; shift >= 0; shift -= 4) digits += "0123456789abcdef"[word >> shift & 15];
  }
  return digits;
}

}  // namespace

std::string sha256(Bytes bytes) {
  static const bool has_instructions = has_sha256_instructions();
  return digest(bytes, has_instructions ? add_sha256_blocks : add_blocks);
}

std::string sha256_portable(Bytes bytes) { return digest(bytes, add_blocks); }

}  // namespace gne_sdk
