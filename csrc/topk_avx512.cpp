// SPDX-License-Identifier: Apache-2.0
// Internal linkage and no standard templates throughout, for the reason given in simd_avx2.h.
#include "intrinsics_avx512.h"
#include "topk.h"

namespace nagfast {
namespace {

constexpr int kWidth = 16;
constexpr int kVectors = static_cast<int>(kTopkStrip) / kWidth;

// Strip after strip; the elements past the last whole set of groups one at a time.
bool group_maxima(const float* row, int64_t columns, int64_t groups, float* maxima) {
  const int64_t whole = columns / groups * groups;
  uint32_t unordered = 0;
  for (int64_t strip = 0; strip < groups; strip += kTopkStrip) {
    __m512 best[kVectors];  // [64 groups] of float32
    for (int v = 0; v < kVectors; ++v) best[v] = _mm512_set1_ps(-__builtin_inff());
    for (int64_t start = strip; start < whole; start += groups) {
      for (int v = 0; v < kVectors; v += 2) {
        const __m512 a = _mm512_loadu_ps(row + start + v * kWidth);
        const __m512 b = _mm512_loadu_ps(row + start + (v + 1) * kWidth);
        unordered |= _mm512_cmp_ps_mask(a, b, _CMP_UNORD_Q);
        best[v] = _mm512_max_ps(best[v], a);
        best[v + 1] = _mm512_max_ps(best[v + 1], b);
      }
    }
    for (int v = 0; v < kVectors; ++v) _mm512_storeu_ps(maxima + strip + v * kWidth, best[v]);
  }
  bool has_nan = unordered != 0;
  for (int64_t i = whole; i < columns; ++i) {
    const float value = row[i];
    maxima[i - whole] = value > maxima[i - whole] ? value : maxima[i - whole];
    has_nan |= value != value;
  }
  return has_nan;
}

int64_t collect(const float* row, int64_t columns, float threshold, uint32_t* indices) {
  const __m512 bar = _mm512_set1_ps(threshold);
  int64_t count = 0;
  int64_t i = 0;
  for (; i + kTopkStrip <= columns; i += kTopkStrip) {
    uint64_t mask = 0;
    for (int v = 0; v < kVectors; ++v) {
      const __mmask16 reached = _mm512_cmp_ps_mask(_mm512_loadu_ps(row + i + v * kWidth), bar, _CMP_GE_OQ);
      mask |= static_cast<uint64_t>(reached) << (v * kWidth);
    }
    for (; mask != 0; mask &= mask - 1) {
      indices[count++] = static_cast<uint32_t>(i + __builtin_ctzll(mask));
    }
  }
  for (; i < columns; ++i) {
    if (row[i] >= threshold) indices[count++] = static_cast<uint32_t>(i);
  }
  return count;
}

}  // namespace

const TopkPasses kTopkAvx512{&group_maxima, &collect};

}  // namespace nagfast
