// SPDX-License-Identifier: Apache-2.0
// Sums over the tokens of one block, in the order that impact.h promises. Included by kernels only, after one simd_*.h.
#pragma once

#include "impact.h"

namespace nagfast {
namespace {

static_assert(kBlockColumns % Lanes::kWidth == 0, "a padded block must fit the accumulators");

// x's share of the sum, added to sum[0..kWidth).
template <bool kSquares>
void accumulate(float* sum, Lanes::Float x) {
  const Lanes::Float old = Lanes::load(sum);
  Lanes::store(sum, kSquares ? Lanes::fma(x, x, old) : Lanes::add(old, Lanes::abs(x)));
}

template <bool kSquares>
Lanes::Float finish(Lanes::Float total, float tokens) {
  const Lanes::Float value = kSquares ? Lanes::sqrt(total) : Lanes::div(total, Lanes::splat(tokens));
  return Lanes::canonical_nan(value);
}

// Calls add_token(token, sum) for each token, sum being the accumulators of its chunk, and writes impact[0..columns).
// Precondition: tokens >= 1, 1 <= columns <= kBlockColumns.
template <bool kSquares, typename AddToken>
void sum_block(int64_t tokens, int64_t columns, float* impact, const AddToken& add_token) {
  float total[kBlockColumns] = {};
  float partial[kBlockColumns];
  for (int64_t start = 0; start < tokens; start += kChunkTokens) {
    const int64_t end = start + kChunkTokens < tokens ? start + kChunkTokens : tokens;
    for (int64_t j = 0; j < kBlockColumns; ++j) partial[j] = 0.0f;
    for (int64_t t = start; t < end; ++t) add_token(t, partial);
    for (int64_t j = 0; j < kBlockColumns; ++j) total[j] += partial[j];
  }
  const float count = static_cast<float>(tokens);
  int64_t j = 0;
  for (; j + Lanes::kWidth <= columns; j += Lanes::kWidth) {
    Lanes::store(impact + j, finish<kSquares>(Lanes::load(total + j), count));
  }
  const int rest = static_cast<int>(columns - j);
  if (rest > 0) Lanes::store_some(impact + j, finish<kSquares>(Lanes::load(total + j), count), rest);
}

}  // namespace
}  // namespace nagfast
