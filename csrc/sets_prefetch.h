// SPDX-License-Identifier: Apache-2.0
// Included by sets_*.cpp of one instruction set only; internal linkage, so that each keeps its own.
#pragma once

#include <cstdint>

#include "prefetch.h"
#include "sets.h"

namespace nagfast {
namespace {

// The hardware does not foresee where the next candidate lies.
template <typename Index>
NAGFAST_ALWAYS_INLINE void prefetch_document(const OverlapRows<Index>& rows, int64_t d) {
  const bool dense = rows.layer_stride == rows.k;
  const int64_t runs = dense ? 1 : rows.layers;
  const int64_t length = dense ? rows.layers * rows.k : rows.k;
  for (int64_t run = 0; run < runs; ++run) {
    const auto* bytes = reinterpret_cast<const char*>(rows.documents[d] + run * rows.layer_stride);
    const int64_t last = length * static_cast<int64_t>(sizeof(Index)) - 1;
    for (int64_t line = 0; line < last; line += 64) NAGFAST_PREFETCH(bytes + line);
    NAGFAST_PREFETCH(bytes + last);
  }
}

}  // namespace
}  // namespace nagfast
