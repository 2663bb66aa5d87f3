// SPDX-License-Identifier: Apache-2.0
// Internal linkage and no standard templates throughout, for the reason given in simd_avx2.h.
#include <immintrin.h>

#include <cstdint>

#include "minhash.h"

namespace nagfast {
namespace {

constexpr int kWidth = 8;

__m256i load(const uint32_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
__m256i splat(uint32_t x) { return _mm256_set1_epi32(static_cast<int>(x)); }

__m256i fold(__m256i h, int shift) { return _mm256_xor_si256(h, _mm256_srli_epi32(h, shift)); }

void mix(uint32_t* h, int64_t n) {
  for (int64_t i = 0; i < n; i += kWidth) {
    __m256i x = fold(load(h + i), 16);
    x = fold(_mm256_mullo_epi32(x, splat(0x85EBCA6Bu)), 13);
    x = fold(_mm256_mullo_epi32(x, splat(0xC2B2AE35u)), 16);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(h + i), x);
  }
}

uint32_t smallest(__m256i x) {
  __m128i half = _mm_min_epu32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
  half = _mm_min_epu32(half, _mm_shuffle_epi32(half, 0x4E));
  half = _mm_min_epu32(half, _mm_shuffle_epi32(half, 0xB1));
  return static_cast<uint32_t>(_mm_cvtsi128_si32(half));
}

// kCount permutations at a time: an element loaded once serves them all.
template <int kCount>
void least_of(const uint32_t* mixed, int64_t n, const uint32_t* a, const uint32_t* b, uint32_t* out) {
  __m256i factor[kCount];
  __m256i offset[kCount];
  __m256i best[kCount];
  for (int k = 0; k < kCount; ++k) {
    factor[k] = splat(a[k]);
    offset[k] = splat(b[k]);
    best[k] = splat(~uint32_t{0});
  }
  for (int64_t i = 0; i < n; i += kWidth) {
    const __m256i h = load(mixed + i);
    for (int k = 0; k < kCount; ++k) {
      const __m256i value = _mm256_add_epi32(_mm256_mullo_epi32(h, factor[k]), offset[k]);
      best[k] = _mm256_min_epu32(best[k], value);
    }
  }
  for (int k = 0; k < kCount; ++k) out[k] = smallest(best[k]);
}

void least(const uint32_t* mixed, int64_t n, const uint32_t* a, const uint32_t* b, int64_t count, uint32_t* out) {
  int64_t k = 0;
  for (; k + 4 <= count; k += 4) least_of<4>(mixed, n, a + k, b + k, out + k);
  for (; k < count; ++k) least_of<1>(mixed, n, a + k, b + k, out + k);
}

}  // namespace

const MinhashKernels kMinhashAvx2{&mix, &least};

}  // namespace nagfast
