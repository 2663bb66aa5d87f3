// SPDX-License-Identifier: Apache-2.0
// Internal linkage and no standard templates throughout, for the reason given in simd_avx2.h.
#include <immintrin.h>

#include <cstdint>

#include "score.h"
#include "score_layer.h"

namespace nagfast {
namespace {

// The profiles from p on, kStep at a time; returns the first one left over.
template <int kStep, typename Index>
int64_t add_profiles(const ScoreLayer<Index, uint16_t>& layer, const ScoreRow<Index>& row, int64_t p) {
  constexpr int kVectors = kStep / 8;
  for (; p + kStep <= layer.profiles; p += kStep) {
    __m256i sums[kVectors];  // [kStep profiles] of uint32: k * 65535 fits, as add_layer sees to
    for (int v = 0; v < kVectors; ++v) sums[v] = _mm256_setzero_si256();
    for (int64_t i = 0; i < layer.k; ++i) {
      const uint16_t* counts = layer.table + row.indices[layer.offset + i] * layer.profiles + p;
      for (int v = 0; v < kVectors; ++v) {
        const __m128i narrow = _mm_loadu_si128(reinterpret_cast<const __m128i*>(counts + 8 * v));
        sums[v] = _mm256_add_epi32(sums[v], _mm256_cvtepu16_epi32(narrow));
      }
    }
    for (int v = 0; v < kVectors; ++v) {
      uint32_t wide[8];
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(wide), sums[v]);
      for (int j = 0; j < 8; ++j) row.sums[p + 8 * v + j] += wide[j];
    }
  }
  return p;
}

// As many profiles as vectors hold; returns the first one left over.
template <typename Index>
int64_t add_vectors(const ScoreLayer<Index, uint16_t>& layer, const ScoreRow<Index>& row) {
  if (layer.k > 65537) return 0;
  int64_t p = 0;
  p = add_profiles<32>(layer, row, p);
  return add_profiles<8>(layer, row, p);
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

uint16_t largest_avx2(const uint16_t* entries, int64_t n) {
  __m256i best = _mm256_setzero_si256();
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
    best = _mm256_max_epu16(best, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(entries + i)));
  }
  // The position of a minimum of the complements gives the maximum of 8 in one instruction.
  const __m128i half = _mm_max_epu16(_mm256_castsi256_si128(best), _mm256_extracti128_si256(best, 1));
  const __m128i least = _mm_minpos_epu16(_mm_xor_si128(half, _mm_set1_epi32(-1)));
  const uint16_t found = static_cast<uint16_t>(~_mm_cvtsi128_si32(least));
  const uint16_t rest = largest_of(entries + i, n - i);
  return found > rest ? found : rest;
}

uint32_t largest_avx2(const uint32_t* entries, int64_t n) {
  __m256i best = _mm256_setzero_si256();
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    best = _mm256_max_epu32(best, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(entries + i)));
  }
  uint32_t lanes[8];
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(lanes), best);
  const uint32_t found = largest_of(lanes, 8);
  const uint32_t rest = largest_of(entries + i, n - i);
  return found > rest ? found : rest;
}

void add_layer_avx2(const ScoreLayer<uint16_t, uint16_t>& layer) { add_layer(layer); }
void add_layer_avx2(const ScoreLayer<uint16_t, uint32_t>& layer) { add_layer(layer); }
void add_layer_avx2(const ScoreLayer<uint32_t, uint16_t>& layer) { add_layer(layer); }
void add_layer_avx2(const ScoreLayer<uint32_t, uint32_t>& layer) { add_layer(layer); }

}  // namespace nagfast
