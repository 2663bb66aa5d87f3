// SPDX-License-Identifier: Apache-2.0
// The impact of one block of columns on the lanes of one instruction set. Included by the impact_*.cpp files only,
// after one simd_*.h.
#pragma once

#include "impact.h"
#include "silu.h"

namespace nagfast {
namespace {

static_assert(kBlockColumns % Lanes::kWidth == 0, "a padded block must fit the accumulators");

// u's share of the sum, added to sum[0..kWidth).
template <bool kSquares>
void accumulate(float* sum, Lanes::Float u) {
  const Lanes::Float old = Lanes::load(sum);
  Lanes::store(sum, kSquares ? Lanes::fma(u, u, old) : Lanes::add(old, Lanes::abs(u)));
}

// One token: columns in vectors, then the columns left over. `gate` is nullptr unless kGated.
template <bool kGated, bool kSquares, typename Scalar>
void add_token(Scalar* gate, const Scalar* up, int64_t columns, float* sum) {
  int64_t j = 0;
  for (; j + Lanes::kWidth <= columns; j += Lanes::kWidth) {
    const Lanes::Float u = Lanes::load(up + j);
    if (kGated) Lanes::store(gate + j, Lanes::canonical_nan(Lanes::mul(silu(Lanes::load(gate + j)), u)));
    accumulate<kSquares>(sum + j, u);
  }
  const int rest = static_cast<int>(columns - j);
  if (rest == 0) return;
  const Lanes::Float u = Lanes::load_some(up + j, rest);
  if (kGated) {
    const Lanes::Float g = Lanes::load_some(gate + j, rest);
    Lanes::store_some(gate + j, Lanes::canonical_nan(Lanes::mul(silu(g), u)), rest);
  }
  accumulate<kSquares>(sum + j, u);
}

template <bool kSquares>
Lanes::Float finish(Lanes::Float total, float tokens) {
  const Lanes::Float value = kSquares ? Lanes::sqrt(total) : Lanes::div(total, Lanes::splat(tokens));
  return Lanes::canonical_nan(value);
}

// Precondition: block.tokens >= 1, 1 <= block.columns <= kBlockColumns.
template <bool kGated, bool kSquares, typename Scalar>
void run_block(const ImpactBlock<Scalar>& block) {
  float total[kBlockColumns] = {};
  float partial[kBlockColumns];
  for (int64_t start = 0; start < block.tokens; start += kChunkTokens) {
    const int64_t end = start + kChunkTokens < block.tokens ? start + kChunkTokens : block.tokens;
    for (int64_t j = 0; j < kBlockColumns; ++j) partial[j] = 0.0f;
    for (int64_t t = start; t < end; ++t) {
      Scalar* gate = kGated ? block.gate + t * block.row_stride : nullptr;
      add_token<kGated, kSquares>(gate, block.up + t * block.row_stride, block.columns, partial);
    }
    for (int64_t j = 0; j < kBlockColumns; ++j) total[j] += partial[j];
  }
  const float tokens = static_cast<float>(block.tokens);
  int64_t j = 0;
  for (; j + Lanes::kWidth <= block.columns; j += Lanes::kWidth) {
    Lanes::store(block.impact + j, finish<kSquares>(Lanes::load(total + j), tokens));
  }
  const int rest = static_cast<int>(block.columns - j);
  if (rest > 0) Lanes::store_some(block.impact + j, finish<kSquares>(Lanes::load(total + j), tokens), rest);
}

template <typename Scalar>
void dispatch_block(const ImpactBlock<Scalar>& block) {
  const bool squares = block.reduction == Reduction::kL2;
  if (block.gate != nullptr) {
    squares ? run_block<true, true>(block) : run_block<true, false>(block);
  } else {
    squares ? run_block<false, true>(block) : run_block<false, false>(block);
  }
}

}  // namespace
}  // namespace nagfast
