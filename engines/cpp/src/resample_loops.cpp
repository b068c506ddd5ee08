#include "resample_loops.hpp"

#include <algorithm>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace gne_sdk {
namespace {

constexpr int32_t kHalf = 1 << (kWeightBits - 1);

uint8_t to_byte(int32_t sum) { return static_cast<uint8_t>(std::clamp(sum >> kWeightBits, 0, 255)); }

void pixel_across(const uint8_t* pixel, const int32_t* weights, uint32_t count, uint8_t* out) {
  int32_t red = kHalf, green = kHalf, blue = kHalf;
  for (uint32_t i = 0; i < count; ++i, pixel += 3) {
    red += pixel[0] * weights[i];
    green += pixel[1] * weights[i];
    blue += pixel[2] * weights[i];
  }
  out[0] = to_byte(red), out[1] = to_byte(green), out[2] = to_byte(blue);
}

void across_plain(const uint8_t* row, const Filter& filter, uint8_t* out) {
  for (const Taps& taps : filter.taps) {
    const uint8_t* pixel = row + size_t{taps.first - filter.first()} * 3;
    pixel_across(pixel, filter.weights.data() + taps.weights, taps.count, out);
    out += 3;
  }
}

// A pixel of three bytes is read and written as one of four. So those at the end of the row go alone.
template <typename Pixel>
inline __attribute__((always_inline)) void across_by(Pixel pixel_by, const uint8_t* row, const Filter& filter,
                                                     uint8_t* out) {
  const uint32_t first = filter.first(), last = filter.last();
  for (const Taps& taps : filter.taps) {
    const uint8_t* pixel = row + size_t{taps.first - first} * 3;
    const int32_t* weights = filter.weights.data() + taps.weights;
    taps.last() < last ? pixel_by(pixel, weights, taps.count, out) : pixel_across(pixel, weights, taps.count, out);
    out += 3;
  }
}

// The compiler makes vectors of it, as wide as the function that it is inlined into may have.
inline __attribute__((always_inline)) void down_by_row(const uint8_t* rows, const int32_t* weights, uint32_t count,
                                                       std::vector<int32_t>& sums, uint8_t* out) {
  const size_t length = sums.size();
  int32_t* const sum = sums.data();
  std::fill(sums.begin(), sums.end(), kHalf);
  for (uint32_t i = 0; i < count; ++i, rows += length) {
    for (size_t x = 0; x < length; ++x) sum[x] += rows[x] * weights[i];
  }
  for (size_t x = 0; x < length; ++x) out[x] = to_byte(sum[x]);
}

void down_plain(const uint8_t* rows, const int32_t* weights, uint32_t count, std::vector<int32_t>& sums, uint8_t* out) {
  down_by_row(rows, weights, count, sums, out);
}

#if defined(__x86_64__)

__attribute__((target("avx2"))) inline void pixel_avx2(const uint8_t* pixel, const int32_t* weights, uint32_t count,
                                                       uint8_t* out) {
  __m128i sum = _mm_set1_epi32(kHalf);
  for (uint32_t i = 0; i < count; ++i, pixel += 3) {
    int32_t bytes;
    std::memcpy(&bytes, pixel, sizeof bytes);
    const __m128i channels = _mm_cvtepu8_epi32(_mm_cvtsi32_si128(bytes));
    sum = _mm_add_epi32(sum, _mm_mullo_epi32(channels, _mm_set1_epi32(weights[i])));
  }
  const __m128i shorts = _mm_packus_epi32(_mm_srai_epi32(sum, kWeightBits), sum);
  const int32_t bytes = _mm_cvtsi128_si32(_mm_packus_epi16(shorts, shorts));
  std::memcpy(out, &bytes, sizeof bytes);
}

__attribute__((target("avx2"))) void across_avx2(const uint8_t* row, const Filter& filter, uint8_t* out) {
  across_by(pixel_avx2, row, filter, out);
}

__attribute__((target("avx2"))) void down_avx2(const uint8_t* rows, const int32_t* weights, uint32_t count,
                                               std::vector<int32_t>& sums, uint8_t* out) {
  down_by_row(rows, weights, count, sums, out);
}

#elif defined(__aarch64__)

inline void pixel_neon(const uint8_t* pixel, const int32_t* weights, uint32_t count, uint8_t* out) {
  int32x4_t sum = vdupq_n_s32(kHalf);
  for (uint32_t i = 0; i < count; ++i, pixel += 3) {
    uint32_t bytes;
    std::memcpy(&bytes, pixel, sizeof bytes);
    const uint16x4_t channels = vget_low_u16(vmovl_u8(vcreate_u8(bytes)));
    sum = vmlaq_n_s32(sum, vreinterpretq_s32_u32(vmovl_u16(channels)), weights[i]);
  }
  const uint16x4_t shorts = vqmovun_s32(vshrq_n_s32(sum, kWeightBits));
  const uint32_t bytes = vget_lane_u32(vreinterpret_u32_u8(vqmovn_u16(vcombine_u16(shorts, shorts))), 0);
  std::memcpy(out, &bytes, sizeof bytes);
}

void across_neon(const uint8_t* row, const Filter& filter, uint8_t* out) { across_by(pixel_neon, row, filter, out); }

#endif

}  // namespace

const Loops kPlainLoops = {across_plain, down_plain};

Loops fast_loops() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2")) return {across_avx2, down_avx2};
#elif defined(__aarch64__)
  return {across_neon, down_plain};
#endif
  return kPlainLoops;
}

}  // namespace gne_sdk
