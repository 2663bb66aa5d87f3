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

uint32_t smallest(__m512i x) {
  uint32_t lanes[kWidth];
  _mm512_storeu_si512(lanes, x);
  uint32_t best = lanes[0];
  for (int i = 1; i < kWidth; ++i) best = lanes[i] < best ? lanes[i] : best;
  return best;
}

// kCount permutations at a time: an element loaded once serves them all.
template <int kCount>
void least_of(const uint32_t* mixed, int64_t n, const uint32_t* a, const uint32_t* b, uint32_t* out) {
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
  for (int k = 0; k < kCount; ++k) out[k] = smallest(best[k]);
}

void least(const uint32_t* mixed, int64_t n, const uint32_t* a, const uint32_t* b, int64_t count, uint32_t* out) {
  int64_t k = 0;
  for (; k + 8 <= count; k += 8) least_of<8>(mixed, n, a + k, b + k, out + k);
  for (; k < count; ++k) least_of<1>(mixed, n, a + k, b + k, out + k);
}

}  // namespace

const MinhashKernels kMinhashAvx512{&mix, &least};

}  // namespace nagfast
