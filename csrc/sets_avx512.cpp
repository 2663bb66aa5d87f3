// SPDX-License-Identifier: Apache-2.0
// Internal linkage and no standard templates throughout, for the reason given in simd_avx2.h.
#include <cstdint>

#include "intrinsics_avx512.h"
#include "sets.h"
#include "sets_prefetch.h"

namespace nagfast {
namespace {

__mmask32 first_lanes(int64_t count) { return count >= 32 ? 0xFFFFFFFFu : (1u << count) - 1u; }

// hits += 1 in the lanes, of the first `lanes`, whose entry is in the set.
template <int kDepth>
void test(const BucketView& set, int64_t layer, __m512i entries, __mmask32 lanes, __m512i& hits) {
  const __m512i multiplier = _mm512_set1_epi16(static_cast<int16_t>(set.multipliers[layer * kBucketLanes]));
  const __m512i bucket = _mm512_srli_epi16(_mm512_mullo_epi16(entries, multiplier), 11);
  const uint16_t* slots = set.slots + layer * 32;
  const int64_t depth = kDepth > 0 ? kDepth : set.depth;
  for (int64_t e = 0; e < depth; ++e) {
    const __m512i member = _mm512_permutexvar_epi16(bucket, _mm512_loadu_si512(slots + e * set.stride));
    const __mmask32 found = _mm512_mask_cmpeq_epi16_mask(lanes, entries, member);
    hits = _mm512_mask_add_epi16(hits, found, hits, _mm512_set1_epi16(1));
  }
}

int32_t total(__m512i lanes) {
  uint16_t hits[32];
  _mm512_storeu_si512(hits, lanes);
  int32_t sum = 0;
  for (int i = 0; i < 32; ++i) sum += hits[i];
  return sum;
}

template <int kDepth>
int64_t overlap_rows(const BucketView& set, const OverlapRows<uint16_t>& rows, int32_t* out) {
  const __m512i limit = _mm512_set1_epi16(static_cast<int16_t>(rows.neurons - 1));
  for (int64_t d = 0; d < rows.count; ++d) {
    prefetch_document(rows, d + kOverlapAhead);
    __m512i hits = _mm512_setzero_si512();
    __m512i largest = _mm512_setzero_si512();
    for (int64_t l = 0; l < rows.layers; ++l) {
      const uint16_t* row = rows.documents[d] + l * rows.layer_stride;
      for (int64_t i = 0; i < rows.k; i += 32) {
        const __mmask32 lanes = first_lanes(rows.k - i);
        const __m512i entries = _mm512_maskz_loadu_epi16(lanes, row + i);
        largest = _mm512_max_epu16(largest, entries);
        test<kDepth>(set, l, entries, lanes, hits);
      }
    }
    if (_mm512_cmpgt_epu16_mask(largest, limit) != 0) return d;
    out[d] = total(hits);
  }
  return rows.count;
}

}  // namespace

int64_t overlap_rows_avx512(const BucketView& set, const OverlapRows<uint16_t>& rows, int32_t* out) {
  return set.depth == 2 ? overlap_rows<2>(set, rows, out) : overlap_rows<0>(set, rows, out);
}

}  // namespace nagfast
