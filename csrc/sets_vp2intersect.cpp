// SPDX-License-Identifier: Apache-2.0
// Internal linkage and no standard templates throughout, for the reason given in simd_avx2.h.
#include <cstdint>

#include "intrinsics_avx512.h"
#include "sets.h"
#include "sets_prefetch.h"

namespace nagfast {
namespace {

// The lanes of a that hold an entry of b. (GCC 12 sends both masks through memory, however it is written.)
unsigned lanes_in(__m512i a, __m512i b) {
  __mmask16 of_a;
  __mmask16 of_b;
  _mm512_2intersect_epi32(a, b, &of_a, &of_b);
  return of_a;
}

// How many of a vector's entries are in the set. kMet: vectors of the set it meets, where the compiler may know them,
// else 0.
template <int kMet>
int count_members(const SetVectorView& set, int64_t vector, __m256i narrow) {
  const __m512i layers = _mm512_load_si512(set.layers + vector);
  const __m512i entries = _mm512_or_si512(_mm512_cvtepu16_epi32(narrow), layers);
  const SetVector* met = set.entries + set.first[vector];
  const int64_t count = kMet > 0 ? kMet : set.met;
  unsigned found = 0;
  for (int64_t i = 0; i < count; ++i) found |= lanes_in(entries, _mm512_load_si512(met + i));
  return __builtin_popcount(found);
}

template <int kMet>
int64_t overlap_rows(const SetVectorView& set, const OverlapRows<uint16_t>& rows, int32_t* out) {
  const __m256i limit = _mm256_set1_epi16(static_cast<int16_t>(rows.neurons - 1));
  const int64_t whole = rows.layers * rows.k / kSetLanes;
  const auto rest = static_cast<__mmask16>((1u << rows.layers * rows.k % kSetLanes) - 1);
  for (int64_t d = 0; d < rows.count; ++d) {
    prefetch_document(rows, d + kOverlapAhead);
    const uint16_t* document = rows.documents[d];
    __m256i largest = _mm256_setzero_si256();
    int32_t sum = 0;
    for (int64_t v = 0; v < whole; ++v) {
      const __m256i narrow = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(document + v * kSetLanes));
      largest = _mm256_max_epu16(largest, narrow);
      sum += count_members<kMet>(set, v, narrow);
    }
    if (rest != 0) {
      const __m256i narrow = _mm256_maskz_loadu_epi16(rest, document + whole * kSetLanes);
      largest = _mm256_max_epu16(largest, narrow);
      sum += count_members<kMet>(set, whole, narrow);
    }
    const __m256i fits = _mm256_cmpeq_epi16(_mm256_max_epu16(largest, limit), limit);
    if (_mm256_movemask_epi8(fits) != -1) return d;
    out[d] = sum;
  }
  return rows.count;
}

}  // namespace

int64_t overlap_rows_vp2intersect(const SetVectorView& set, const OverlapRows<uint16_t>& rows, int32_t* out) {
  return set.met == 3 ? overlap_rows<3>(set, rows, out) : overlap_rows<0>(set, rows, out);
}

}  // namespace nagfast
