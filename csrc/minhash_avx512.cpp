// SPDX-License-Identifier: Apache-2.0
// Internal linkage and no standard templates throughout, for the reason given in simd_avx2.h.
#include <cstdint>

#include "intrinsics_avx512.h"
#include "minhash.h"

namespace nagfast {
namespace {

constexpr int kWidth = 16;

__m512i splat(uint32_t x) { return _mm512_set1_epi32(static_cast<int>(x)); }

template <int kShift>
__m512i fold(__m512i h) {
  return _mm512_xor_si512(h, _mm512_srli_epi32(h, kShift));
}

void mix(uint32_t* h, int64_t n) {
  for (int64_t i = 0; i < n; i += kWidth) {
    __m512i x = fold<16>(_mm512_loadu_si512(h + i));
    x = fold<13>(_mm512_mullo_epi32(x, splat(0x85EBCA6Bu)));
    x = fold<16>(_mm512_mullo_epi32(x, splat(0xC2B2AE35u)));
    _mm512_storeu_si512(h + i, x);
  }
}

// Half of each vector's lanes folded onto the other half, the halves side by side: low lanes of a, then of b.
__m512i fold_pair(__m512i a, __m512i b, __m512i low, __m512i high) {
  return _mm512_min_epu32(_mm512_permutex2var_epi32(a, low, b), _mm512_permutex2var_epi32(a, high, b));
}

// out[v] = the smallest lane of x[v]: four times two vectors are folded into one, which leaves one lane of each.
void smallest_of_16(__m512i* x, uint32_t* out) {
  const __m512i low = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  const __m512i high = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
  for (int count = 8; count > 0; count /= 2) {
    for (int v = 0; v < count; ++v) x[v] = fold_pair(x[2 * v], x[2 * v + 1], low, high);
  }
  _mm512_storeu_si512(out, x[0]);
}

// kCount permutations at a time: an element loaded once serves them all. Leaves the least of each lane.
template <int kCount>
void least_of(const uint32_t* mixed, int64_t n, const uint32_t* a, const uint32_t* b, __m512i* out) {
  __m512i factor[kCount];
  __m512i offset[kCount];
  __m512i best[kCount];
  for (int k = 0; k < kCount; ++k) {
    factor[k] = splat(a[k]);
    offset[k] = splat(b[k]);
    best[k] = splat(~uint32_t{0});
  }
  for (int64_t i = 0; i < n; i += kWidth) {
    const __m512i h = _mm512_loadu_si512(mixed + i);
    for (int k = 0; k < kCount; ++k) {
      const __m512i value = _mm512_add_epi32(_mm512_mullo_epi32(h, factor[k]), offset[k]);
      best[k] = _mm512_min_epu32(best[k], value);
    }
  }
  for (int k = 0; k < kCount; ++k) out[k] = best[k];
}

void least(const uint32_t* mixed, int64_t n, const uint32_t* a, const uint32_t* b, int64_t count, uint32_t* out) {
  __m512i best[16];
  int64_t k = 0;
  for (; k + 16 <= count; k += 16) {
    least_of<8>(mixed, n, a + k, b + k, best);
    least_of<8>(mixed, n, a + k + 8, b + k + 8, best + 8);
    smallest_of_16(best, out + k);
  }
  if (k == count) return;
  uint32_t rest[16];
  for (int64_t j = 0; j < 16; ++j) {
    // The last permutation stands in for those there are none of.
    const int64_t taken = k + j < count ? k + j : count - 1;
    if (k + j < count) least_of<1>(mixed, n, a + taken, b + taken, best + j);
    else best[j] = best[j - 1];
  }
  smallest_of_16(best, rest);
  for (int64_t j = 0; k + j < count; ++j) out[k + j] = rest[j];
}

}  // namespace

const MinhashKernels kMinhashAvx512{&mix, &least};

}  // namespace nagfast
