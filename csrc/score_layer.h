// SPDX-License-Identifier: Apache-2.0
// The parts of the layer-blocked look-up that need no intrinsics. Included by score_avx2.cpp and score_avx512.cpp only;
// internal linkage, so that each keeps its own.
#pragma once

#include <cstdint>

#include "prefetch.h"
#include "score.h"

namespace nagfast {
namespace {

template <typename Index>
Index largest_of(const Index* entries, int64_t n) {
  Index best = 0;
  for (int64_t i = 0; i < n; ++i) best = entries[i] > best ? entries[i] : best;
  return best;
}

// The row of a document ahead: two cache lines, as a row of 20 uint16 may straddle them.
template <typename Index, typename Count>
NAGFAST_ALWAYS_INLINE void prefetch_row(const ScoreLayer<Index, Count>& layer, int64_t d) {
  const Index* ahead = layer.rows[d + kScoreAhead].indices + layer.offset;
  NAGFAST_PREFETCH(ahead);
  NAGFAST_PREFETCH(ahead + (layer.k - 1));
}

// The table rows of the next document, several profiles wide: more of them on their way than the processor would find
// by looking ahead.
template <typename Index, typename Count>
NAGFAST_ALWAYS_INLINE void prefetch_counts(const ScoreLayer<Index, Count>& layer, int64_t d) {
  const Index* row = layer.rows[d + 1].indices + layer.offset;
  for (int64_t i = 0; i < layer.k; ++i) {
    const char* counts = reinterpret_cast<const char*>(layer.table + row[i] * layer.profiles);
    const int64_t bytes = layer.profiles * static_cast<int64_t>(sizeof(Count));
    for (int64_t line = 0; line < bytes; line += 64) NAGFAST_PREFETCH(counts + line);
  }
}

// Adds four look-ups to four sums, so that none waits for the one before. The uint16 indices are read as one word:
// the loop is bound by loads, and this makes five of eight.
template <typename Count>
void add_four(const uint16_t* row, const Count* table, uint64_t* sums) {
  uint64_t word;
  __builtin_memcpy(&word, row, sizeof word);
  sums[0] += table[word & 0xFFFF];
  sums[1] += table[(word >> 16) & 0xFFFF];
  sums[2] += table[(word >> 32) & 0xFFFF];
  sums[3] += table[word >> 48];
}

template <typename Count>
void add_four(const uint32_t* row, const Count* table, uint64_t* sums) {
  for (int j = 0; j < 4; ++j) sums[j] += table[row[j]];
}

// One profile. kK: entries of a layer, where the compiler may know them, else 0.
template <int kK, typename Index, typename Count>
void add_single_of(const ScoreLayer<Index, Count>& layer) {
  const Count* table = layer.table;
  const int64_t k = kK > 0 ? kK : layer.k;
  for (int64_t d = 0; d < layer.count; ++d) {
    prefetch_row(layer, d);
    NAGFAST_PREFETCH(reinterpret_cast<const void*>(layer.ahead + 64 * static_cast<uintptr_t>(d)));
    const Index* row = layer.rows[d].indices + layer.offset;
    uint64_t sums[4] = {};
    int64_t i = 0;
    for (; i + 4 <= k; i += 4) add_four(row + i, table, sums);
    for (; i < k; ++i) sums[0] += table[row[i]];
    *layer.rows[d].sums += static_cast<int64_t>((sums[0] + sums[1]) + (sums[2] + sums[3]));
  }
}

template <typename Index, typename Count>
void add_single(const ScoreLayer<Index, Count>& layer) {
  // The usual K, unrolled.
  if (layer.k == 20) return add_single_of<20>(layer);
  add_single_of<0>(layer);
}

// The profiles from `first` on of one document.
template <typename Index, typename Count>
void add_rest(const ScoreLayer<Index, Count>& layer, const ScoreRow<Index>& row, int64_t first) {
  if (first >= layer.profiles) return;
  for (int64_t i = 0; i < layer.k; ++i) {
    const Count* counts = layer.table + row.indices[layer.offset + i] * layer.profiles;
    for (int64_t p = first; p < layer.profiles; ++p) row.sums[p] += counts[p];
  }
}

}  // namespace
}  // namespace nagfast
