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

// The pixels of which four are read as 16 bytes. One is written as four, which the next one or across_avx2 puts right.
__attribute__((target("avx2"), always_inline)) inline void wide_across(const uint8_t* row, const Filter& filter,
                                                                       uint32_t fours, uint8_t* out) {
  const __m256i apart = _mm256_setr_epi8(0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1,  //
                                         6, -1, 9, -1, 7, -1, 10, -1, 8, -1, 11, -1, -1, -1, -1, -1);
  const __m128i top = _mm_setr_epi8(3, 7, 11, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1);
  const __m256i highs = _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1), lows = _mm256_setr_epi32(2, 2, 2, 2, 3, 3, 3, 3);
  const auto* halves = reinterpret_cast<const __m128i*>(filter.halves.data());
  const uint32_t first = filter.first();
  const Taps* const end = filter.taps.data() + filter.wide;
  for (const Taps* taps = filter.taps.data(); taps < end; ++taps, out += 3) {
    const uint8_t* pixel = row + size_t{taps->first - first} * 3;
    __m256i high = _mm256_setzero_si256(), low = high;
    for (uint32_t i = 0; i < fours; ++i, pixel += 12) {
      const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(pixel));
      const __m256i channels = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(bytes), apart);
      const __m256i weights = _mm256_castsi128_si256(_mm_loadu_si128(halves++));
      high = _mm256_add_epi32(high, _mm256_madd_epi16(channels, _mm256_permutevar8x32_epi32(weights, highs)));
      low = _mm256_add_epi32(low, _mm256_madd_epi16(channels, _mm256_permutevar8x32_epi32(weights, lows)));
    }
    const __m256i sums = _mm256_add_epi32(_mm256_slli_epi32(high, kLowBits), low);
    const __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
    const int32_t rgb = _mm_cvtsi128_si32(_mm_shuffle_epi8(_mm_add_epi32(sum, _mm_set1_epi32(4 * kHalf)), top));
    std::memcpy(out, &rgb, sizeof rgb);
  }
}

__attribute__((target("avx2"))) void across_avx2(const uint8_t* row, const Filter& filter, uint8_t* out) {
  filter.fours == 1 ? wide_across(row, filter, 1, out) : wide_across(row, filter, filter.fours, out);
  for (size_t i = filter.wide; i < filter.taps.size(); ++i) {
    const Taps& taps = filter.taps[i];
    const uint8_t* pixel = row + size_t{taps.first - filter.first()} * 3;
    pixel_across(pixel, filter.weights.data() + taps.weights, taps.count, out + i * 3);
  }
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

// A pixel of three bytes is read and written as one of four, so those at the end of the row go alone.
void across_neon(const uint8_t* row, const Filter& filter, uint8_t* out) {
  const uint32_t first = filter.first(), last = filter.last();
  for (const Taps& taps : filter.taps) {
    const uint8_t* pixel = row + size_t{taps.first - first} * 3;
    const int32_t* weights = filter.weights.data() + taps.weights;
    taps.last() < last ? pixel_neon(pixel, weights, taps.count, out) : pixel_across(pixel, weights, taps.count, out);
    out += 3;
  }
}

#endif

}  // namespace

void Filter::halve() {
  const auto more = [](const Taps& a, const Taps& b) { return a.count < b.count; };
  fours = (std::max_element(taps.begin(), taps.end(), more)->count + 3) / 4;
  const auto is_near_end = [this](const Taps& each) { return each.first + 4 * fours + 2 > last(); };
  wide = static_cast<size_t>(std::find_if(taps.begin(), taps.end(), is_near_end) - taps.begin());
  halves.resize(taps.size() * fours * 8);
  for (size_t pixel = 0; pixel < taps.size(); ++pixel) {
    for (uint32_t i = 0; i < taps[pixel].count; ++i) {
      const int32_t weight = 4 * weights[taps[pixel].weights + i];
      int16_t* half = halves.data() + (pixel * fours + i / 4) * 8 + i % 4;
      half[0] = static_cast<int16_t>(weight >> kLowBits);
      half[4] = static_cast<int16_t>(weight & ((1 << kLowBits) - 1));
    }
  }
}

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
