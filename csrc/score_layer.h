// SPDX-License-Identifier: Apache-2.0
// The parts of the layer-blocked look-up that need no intrinsics. Included by score_avx2.cpp and score_avx512.cpp only;
// internal linkage, so that each keeps its own.
#pragma once

#include <cstdint>

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
void prefetch_row(const ScoreLayer<Index, Count>& layer, int64_t d) {
  const Index* ahead = layer.rows[d + kScoreAhead].indices + layer.offset;
  __builtin_prefetch(ahead);
  __builtin_prefetch(ahead + (layer.k - 1));
}

// One profile. Four sums, so that no look-up waits for the one before.
template <typename Index, typename Count>
void add_single(const ScoreLayer<Index, Count>& layer) {
  const Count* table = layer.table;
  for (int64_t d = 0; d < layer.count; ++d) {
    prefetch_row(layer, d);
    const Index* row = layer.rows[d].indices + layer.offset;
    uint64_t sums[4] = {};
    int64_t i = 0;
    for (; i + 4 <= layer.k; i += 4) {
      sums[0] += table[row[i]];
      sums[1] += table[row[i + 1]];
      sums[2] += table[row[i + 2]];
      sums[3] += table[row[i + 3]];
    }
    for (; i < layer.k; ++i) sums[0] += table[row[i]];
    *layer.rows[d].sums += static_cast<int64_t>((sums[0] + sums[1]) + (sums[2] + sums[3]));
  }
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
