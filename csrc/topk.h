// SPDX-License-Identifier: Apache-2.0
// Indices of the k largest values of each row, largest first, ties (and -0 with +0) to the lower index. Exact.
//
// Two passes over a row that stays in the first-level cache. (1) Maxima of `groups` interleaved groups of elements,
// all distinct, so at least k elements reach the k-th largest maximum. (2) Collect those elements: on random
// rows about 1.2 k of them with 64 groups and k = 20. They are then sorted. O(columns) a row plus O(c log k) for c
// collected; in the worst case, where most values are equal, c = columns.
#pragma once

#include <cstdint>

#include "isa.h"

namespace nagfast {

// Not owned. Preconditions: 1 <= k <= columns, and columns - 1 fits Index.
template <typename Index>
struct TopkBatch {
  const float* values;    // [rows, columns]
  int64_t row_stride;     // elements
  int64_t rows;
  int64_t columns;
  int64_t k;
  Index* out;             // [rows, k]
  int64_t out_stride;     // elements
};

// Throws std::invalid_argument naming the lowest row that holds a NaN; `out` may then be partly written.
template <typename Index>
void topk(const TopkBatch<Index>& batch, int threads, Isa isa);

// Group maxima are taken in strips of this many, held in registers.
constexpr int64_t kTopkStrip = 64;

// What an instruction set provides.
struct TopkPasses {
  // maxima[g] = the largest of row[g], row[g + groups], ..; returns whether the row holds a NaN (maxima are then
  // undefined). Precondition: groups is a multiple of kTopkStrip and groups <= columns.
  bool (*group_maxima)(const float* row, int64_t columns, int64_t groups, float* maxima);
  // Writes the indices of the elements >= threshold in ascending order and returns how many. indices has room for
  // `columns`. Precondition: no NaN.
  int64_t (*collect)(const float* row, int64_t columns, float threshold, uint32_t* indices);
};

extern const TopkPasses kTopkScalar;
#if defined(NAGFAST_X86)
extern const TopkPasses kTopkAvx2;
extern const TopkPasses kTopkAvx512;
#endif

}  // namespace nagfast
