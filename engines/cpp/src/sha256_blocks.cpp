#include "sha256_blocks.hpp"

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#elif defined(__aarch64__) && !defined(__clang__)
#include <arm_neon.h>
#include <sys/auxv.h>
#define GNE_ARM_SHA2
#endif

namespace gne_sdk {

#if defined(__x86_64__)

bool has_sha256_instructions() {
  constexpr unsigned kSse41 = 1u << 19, kSha = 1u << 29;
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & kSse41)) return false;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & kSha);
}

// Names such as abef are the state's words in a register, from the highest to the lowest.
__attribute__((target("sha,sse4.1"))) void add_sha256_blocks(Sha256State& state, const uint8_t* blocks, size_t count) {
  const __m128i byte_order = _mm_set_epi8(12, 13, 14, 15, 8, 9, 10, 11, 4, 5, 6, 7, 0, 1, 2, 3);
  auto* const words = reinterpret_cast<__m128i*>(state.data());
  const __m128i cdab = _mm_shuffle_epi32(_mm_loadu_si128(words), 0xb1);
  const __m128i efgh = _mm_shuffle_epi32(_mm_loadu_si128(words + 1), 0x1b);
  __m128i abef = _mm_alignr_epi8(cdab, efgh, 8), cdgh = _mm_blend_epi16(efgh, cdab, 0xf0);
  for (; count > 0; --count, blocks += 64) {
    const __m128i old_abef = abef, old_cdgh = cdgh;
    __m128i message[4];
    for (int i = 0; i < 16; ++i) {
      __m128i& four = message[i % 4];
      if (i < 4) {
        const auto* from = reinterpret_cast<const __m128i*>(blocks + 16 * i);
        four = _mm_shuffle_epi8(_mm_loadu_si128(from), byte_order);
      } else {
        const __m128i &last = message[(i + 3) % 4], before = message[(i + 2) % 4];
        const __m128i sum =
            _mm_add_epi32(_mm_sha256msg1_epu32(four, message[(i + 1) % 4]), _mm_alignr_epi8(last, before, 4));
        four = _mm_sha256msg2_epu32(sum, last);
      }
      const auto* rounds = reinterpret_cast<const __m128i*>(kSha256Rounds.data() + 4 * i);
      const __m128i keyed = _mm_add_epi32(four, _mm_loadu_si128(rounds));
      cdgh = _mm_sha256rnds2_epu32(cdgh, abef, keyed);
      abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(keyed, 0x0e));
    }
    abef = _mm_add_epi32(abef, old_abef);
    cdgh = _mm_add_epi32(cdgh, old_cdgh);
  }
  const __m128i feba = _mm_shuffle_epi32(abef, 0x1b), dchg = _mm_shuffle_epi32(cdgh, 0xb1);
  _mm_storeu_si128(words, _mm_blend_epi16(feba, dchg, 0xf0));
  _mm_storeu_si128(words + 1, _mm_alignr_epi8(dchg, feba, 8));
}

#elif defined(GNE_ARM_SHA2)

bool has_sha256_instructions() { return getauxval(AT_HWCAP) & HWCAP_SHA2; }

__attribute__((target("+crypto"))) void add_sha256_blocks(Sha256State& state, const uint8_t* blocks, size_t count) {
  uint32x4_t abcd = vld1q_u32(state.data()), efgh = vld1q_u32(state.data() + 4);
  for (; count > 0; --count, blocks += 64) {
    const uint32x4_t old_abcd = abcd, old_efgh = efgh;
    uint32x4_t message[4];
    for (int i = 0; i < 16; ++i) {
      uint32x4_t& four = message[i % 4];
      if (i < 4) {
        four = vreinterpretq_u32_u8(vrev32q_u8(vld1q_u8(blocks + 16 * i)));
      } else {
        const uint32x4_t sum = vsha256su0q_u32(four, message[(i + 1) % 4]);
        four = vsha256su1q_u32(sum, message[(i + 2) % 4], message[(i + 3) % 4]);
      }
      const uint32x4_t keyed = vaddq_u32(four, vld1q_u32(kSha256Rounds.data() + 4 * i)), before = abcd;
      abcd = vsha256hq_u32(abcd, efgh, keyed);
      efgh = vsha256h2q_u32(efgh, before, keyed);
    }
    abcd = vaddq_u32(abcd, old_abcd);
    efgh = vaddq_u32(efgh, old_efgh);
  }
  vst1q_u32(state.data(), abcd);
  vst1q_u32(state.data() + 4, efgh);
}

#else

bool has_sha256_instructions() { return false; }

void add_sha256_blocks(Sha256State&, const uint8_t*, size_t) {}

#endif

}  // namespace gne_sdk
