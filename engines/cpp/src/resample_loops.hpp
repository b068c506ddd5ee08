// The two loops in which a resize spends its time: plain, and with the vectors of the processor, to the same bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace gne_sdk {

// Weights are integers, this many times two as large.
constexpr int kWeightBits = 32 - 8 - 2;

// The input pixels that one output pixel is made from: `first`, and where their weights stand.
struct Taps {
  uint32_t first, count;
  size_t weights;

  uint32_t last() const { return first + count; }
};

// `halves`: the weights once more, in two parts for 16-bit multiplications: 4 × weight = high × 2^kLowBits + low, so that
// a sum has its result in its highest byte. Every output pixel has `fours` times four of the first and four of the
// second, zeros behind its last. The first `wide` output pixels may read 16 bytes for every four of theirs.
constexpr int kLowBits = 11;

struct Filter {
  std::vector<Taps> taps;
  std::vector<int32_t> weights;
  std::vector<int16_t> halves;
  uint32_t fours = 0;
  size_t wide = 0;

  // Fills in the last three from the first two.
  void halve();

  uint32_t first() const { return taps.front().first; }
  uint32_t last() const { return taps.back().last(); }
};

// `across`: RGB of which the first pixel is that of index filter.first(), and the last filter.last() - 1 → as many
// pixels as there are taps. `down`: `count` rows that follow each other, each with its weight → one as long as `sums`,
// which is room to work in.
struct Loops {
  void (*across)(const uint8_t* row, const Filter& filter, uint8_t* out);
  void (*down)(const uint8_t* rows, const int32_t* weights, uint32_t count, std::vector<int32_t>& sums, uint8_t* out);
};

extern const Loops kPlainLoops;

// This processor's: x86 with AVX2, Arm with NEON, or the plain ones.
Loops fast_loops();

}  // namespace gne_sdk
