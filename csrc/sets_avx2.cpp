// SPDX-License-Identifier: Apache-2.0
// Internal linkage and no standard templates throughout, for the reason given in simd_avx2.h.
#include <immintrin.h>

#include <cstdint>

#include "sets.h"
#include "sets_prefetch.h"

namespace nagfast {
namespace {

// 16 entries of one layer: both halves look up in the same 8 buckets.
struct OneLayer {
  static __m256i load(const uint16_t* p) {
    return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
};

// 8 entries of a layer and 8 of the next: each half has its own buckets.
struct TwoLayers {
  static __m256i load(const uint16_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
};

struct Sums {
  __m256i whole;    // hits per lane, all lanes of a vector being entries of their own
  __m256i partial;  // where some lanes were counted in the vector before
  __m256i largest;  // of all entries
};

// The bytes of each entry's bucket: 2h and 2h + 1, as the byte shuffle takes them.
__m256i bucket_bytes(__m256i entries, __m256i multipliers) {
  const __m256i hashed = _mm256_and_si256(_mm256_mullo_epi16(entries, multipliers), _mm256_set1_epi16(-0x2000));
  // (h << 13) * 0x1010 >> 16 = h * 0x0202
  return _mm256_or_si256(_mm256_mulhi_epu16(hashed, _mm256_set1_epi16(0x1010)), _mm256_set1_epi16(0x0100));
}

// hits -= -1 in the lanes whose entry is in the set. kDepth: positions, where the compiler may know them, else 0.
template <typename Layers, int kDepth>
void test(const BucketView& set, int64_t layer, __m256i entries, __m256i& hits, __m256i& largest) {
  const __m256i bytes = bucket_bytes(entries, Layers::load(set.multipliers + layer * kBucketLanes));
  const uint16_t* slots = set.slots + layer * 8;
  const int64_t depth = kDepth > 0 ? kDepth : set.depth;
  for (int64_t e = 0; e < depth; ++e) {
    const __m256i member = _mm256_shuffle_epi8(Layers::load(slots + e * set.stride), bytes);
    hits = _mm256_sub_epi16(hits, _mm256_cmpeq_epi16(entries, member));
  }
  largest = _mm256_max_epu16(largest, entries);
}

__m256i load_half_rows(const uint16_t* low, const uint16_t* high) {
  const __m128i first = _mm_loadu_si128(reinterpret_cast<const __m128i*>(low));
  return _mm256_inserti128_si256(_mm256_castsi128_si256(first),
                                 _mm_loadu_si128(reinterpret_cast<const __m128i*>(high)), 1);
}

// The entries of one document. rest = k % 16 entries of a layer are taken with the 8 or 16 that end the row.
template <int kDepth>
void test_document(const BucketView& set, const OverlapRows<uint16_t>& rows, const uint16_t* document, Sums& sums) {
  const int64_t whole = rows.k / 16 * 16;
  const int64_t rest = rows.k - whole;
  for (int64_t l = 0; l < rows.layers; ++l) {
    const uint16_t* row = document + l * rows.layer_stride;
    for (int64_t i = 0; i < whole; i += 16) {
      test<OneLayer, kDepth>(set, l, TwoLayers::load(row + i), sums.whole, sums.largest);
    }
    if (rest > 8) test<OneLayer, kDepth>(set, l, TwoLayers::load(row + rows.k - 16), sums.partial, sums.largest);
    if (rest == 0 || rest > 8 || l % 2 != 0) continue;
    // A layer without a partner is its own: there the buckets are empty.
    const uint16_t* end = row + rows.k - 8;
    const __m256i both = load_half_rows(end, l + 1 < rows.layers ? end + rows.layer_stride : end);
    test<TwoLayers, kDepth>(set, l, both, sums.partial, sums.largest);
  }
}

// All bits in the lanes of a partial vector that were not counted before.
__m256i fresh_lanes(int64_t k) {
  const int64_t rest = k % 16;
  const int64_t width = rest > 8 ? 16 : 8;
  uint16_t lanes[16];
  for (int64_t i = 0; i < 16; ++i) lanes[i] = i % width >= width - rest ? 0xFFFF : 0;
  return TwoLayers::load(lanes);
}

int32_t total(__m256i lanes) {
  const __m256i pairs = _mm256_madd_epi16(lanes, _mm256_set1_epi16(1));
  __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256(pairs, 1));
  sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0x4E));
  return _mm_cvtsi128_si32(_mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0xB1)));
}

template <int kDepth>
int64_t overlap_rows(const BucketView& set, const OverlapRows<uint16_t>& rows, int32_t* out) {
  const __m256i fresh = fresh_lanes(rows.k);
  const __m256i limit = _mm256_set1_epi16(static_cast<int16_t>(rows.neurons - 1));
  for (int64_t d = 0; d < rows.count; ++d) {
    prefetch_document(rows, d + kOverlapAhead);
    Sums sums = {_mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256()};
    test_document<kDepth>(set, rows, rows.documents[d], sums);
    const __m256i fits = _mm256_cmpeq_epi16(_mm256_max_epu16(sums.largest, limit), limit);
    if (_mm256_movemask_epi8(fits) != -1) return d;
    out[d] = total(_mm256_add_epi16(sums.whole, _mm256_and_si256(sums.partial, fresh)));
  }
  return rows.count;
}

}  // namespace

int64_t overlap_rows_avx2(const BucketView& set, const OverlapRows<uint16_t>& rows, int32_t* out) {
  return set.depth == 4 ? overlap_rows<4>(set, rows, out) : overlap_rows<0>(set, rows, out);
}

}  // namespace nagfast
