// SPDX-License-Identifier: Apache-2.0
// RMS norm over each head and rotary embedding (halves rotated), in place, in one pass over queries or keys.
//
// n = x / sqrt(mean(x^2) + eps) * weight          (left out where weight is nullptr)
// x[i]        <- n[i] * cos[i]               - n[i + dim/2] * sin[i]
// x[i + dim/2] <- n[i + dim/2] * cos[i + dim/2] + n[i] * sin[i + dim/2]      for i < dim/2
//
// One portable implementation: it moves 8 bytes for a dozen operations, so the baseline instruction set already runs at
// the speed of memory. Sums have a fixed order: the result does not depend on threads.
#pragma once

#include <cstdint>

namespace nagfast {

// Not owned. O(tokens * heads * dim).
struct RotaryBatch {
  float* x;             // [tokens, heads, dim], heads and dim contiguous, overwritten
  int64_t row_stride;   // elements from one token to the next
  int64_t tokens;
  int64_t heads;
  int64_t dim;          // even
  const float* weight;  // [dim], or nullptr: no norm
  float eps;
  const float* cos;     // [tokens, dim]
  const float* sin;     // [tokens, dim]
};

void norm_rotary(const RotaryBatch& batch, int threads);

}  // namespace nagfast
