// SPDX-License-Identifier: Apache-2.0
// Internal linkage and no standard templates throughout, for the reason given in simd_avx2.h.
#include <cstdint>

#include "intrinsics_avx512.h"
#include "score.h"
#include "score_layer.h"

namespace nagfast {
namespace {

// The profiles from p on, kStep at a time; returns the first one left over.
template <int kStep, typename Index>
int64_t add_profiles(const ScoreLayer<Index, uint16_t>& layer, const ScoreRow<Index>& row, int64_t p) {
  constexpr int kVectors = kStep / 16;
  for (; p + kStep <= layer.profiles; p += kStep) {
    __m512i sums[kVectors];  // [kStep profiles] of uint32: k * 65535 fits, as add_layer sees to
    for (int v = 0; v < kVectors; ++v) sums[v] = _mm512_setzero_si512();
    for (int64_t i = 0; i < layer.k; ++i) {
      const uint16_t* counts = layer.table + row.indices[layer.offset + i] * layer.profiles + p;
      for (int v = 0; v < kVectors; ++v) {
        const __m256i narrow = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(counts + 16 * v));
        sums[v] = _mm512_add_epi32(sums[v], _mm512_cvtepu16_epi32(narrow));
      }
    }
    for (int v = 0; v < kVectors; ++v) {
      uint32_t wide[16];
      _mm512_storeu_si512(wide, sums[v]);
      for (int j = 0; j < 16; ++j) row.sums[p + 16 * v + j] += wide[j];
    }
  }
  return p;
}

// As many profiles as vectors hold; returns the first one left over.
template <typename Index>
int64_t add_vectors(const ScoreLayer<Index, uint16_t>& layer, const ScoreRow<Index>& row) {
  if (layer.k > 65537) return 0;
  int64_t p = 0;
  p = add_profiles<64>(layer, row, p);
  return add_profiles<16>(layer, row, p);
}

template <typename Index>
int64_t add_vectors(const ScoreLayer<Index, uint32_t>&, const ScoreRow<Index>&) {
  return 0;
}

template <typename Index, typename Count>
void add_layer(const ScoreLayer<Index, Count>& layer) {
  if (layer.profiles == 1) {
    add_single(layer);
    return;
  }
  for (int64_t d = 0; d < layer.count; ++d) {
    prefetch_row(layer, d);
    prefetch_counts(layer, d);
    add_rest(layer, layer.rows[d], add_vectors(layer, layer.rows[d]));
  }
}

}  // namespace

uint16_t largest_avx512(const uint16_t* entries, int64_t n) {
  __m512i best = _mm512_setzero_si512();
  int64_t i = 0;
  for (; i + 32 <= n; i += 32) best = _mm512_max_epu16(best, _mm512_loadu_si512(entries + i));
  // The position of a minimum of the complements gives the maximum of 8 in one instruction.
  const __m256i quarter = _mm256_max_epu16(_mm512_castsi512_si256(best), _mm512_extracti64x4_epi64(best, 1));
  const __m128i eighth = _mm_max_epu16(_mm256_castsi256_si128(quarter), _mm256_extracti128_si256(quarter, 1));
  const __m128i least = _mm_minpos_epu16(_mm_xor_si128(eighth, _mm_set1_epi32(-1)));
  const uint16_t found = static_cast<uint16_t>(~_mm_cvtsi128_si32(least));
  const uint16_t rest = largest_of(entries + i, n - i);
  return found > rest ? found : rest;
}

uint32_t largest_avx512(const uint32_t* entries, int64_t n) {
  __m512i best = _mm512_setzero_si512();
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) best = _mm512_max_epu32(best, _mm512_loadu_si512(entries + i));
  uint32_t lanes[16];
  _mm512_storeu_si512(lanes, best);
  const uint32_t found = largest_of(lanes, 16);
  const uint32_t rest = largest_of(entries + i, n - i);
  return found > rest ? found : rest;
}

void add_layer_avx512(const ScoreLayer<uint16_t, uint16_t>& layer) { add_layer(layer); }
void add_layer_avx512(const ScoreLayer<uint16_t, uint32_t>& layer) { add_layer(layer); }
void add_layer_avx512(const ScoreLayer<uint32_t, uint16_t>& layer) { add_layer(layer); }
void add_layer_avx512(const ScoreLayer<uint32_t, uint32_t>& layer) { add_layer(layer); }

}  // namespace nagfast
