// SPDX-License-Identifier: Apache-2.0
#include "sets.h"

namespace nagfast {
namespace {

template <typename Index>
bool in_range(const OverlapRows<Index>& rows, const Index* document) {
  Index largest = 0;
  for (int64_t l = 0; l < rows.layers; ++l) {
    const Index* row = document + l * rows.layer_stride;
    for (int64_t i = 0; i < rows.k; ++i) largest = row[i] > largest ? row[i] : largest;
  }
  return static_cast<int64_t>(largest) < rows.neurons;
}

}  // namespace

template <typename Index, typename Cell, typename Sum>
int64_t overlap_rows_scalar(const Cell* table, const OverlapRows<Index>& rows, Sum* out) {
  for (int64_t d = 0; d < rows.count; ++d) {
    const Index* document = rows.documents[d];
    if (!in_range(rows, document)) return d;
    Sum sum = 0;
    for (int64_t l = 0; l < rows.layers; ++l) {
      const Index* row = document + l * rows.layer_stride;
      const Cell* cells = table + l * rows.neurons;
      for (int64_t i = 0; i < rows.k; ++i) sum += static_cast<Sum>(cells[row[i]]);
    }
    out[d] = sum;
  }
  return rows.count;
}

template int64_t overlap_rows_scalar(const uint8_t*, const OverlapRows<uint16_t>&, int32_t*);
template int64_t overlap_rows_scalar(const uint8_t*, const OverlapRows<uint32_t>&, int32_t*);
template int64_t overlap_rows_scalar(const uint32_t*, const OverlapRows<uint16_t>&, int64_t*);
template int64_t overlap_rows_scalar(const uint32_t*, const OverlapRows<uint32_t>&, int64_t*);

}  // namespace nagfast
