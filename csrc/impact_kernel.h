// SPDX-License-Identifier: Apache-2.0
// The impact of one block of columns on the lanes of one instruction set. Included by the impact_*.cpp files only,
// after one simd_*.h.
#pragma once

#include "impact.h"
#include "impact_sums.h"
#include "silu.h"

namespace nagfast {
namespace {

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

// Precondition: block.tokens >= 1, 1 <= block.columns <= kBlockColumns.
template <bool kGated, bool kSquares, typename Scalar>
void run_block(const ImpactBlock<Scalar>& block) {
  sum_block<kSquares>(block.tokens, block.columns, block.impact, [&](int64_t t, float* sum) {
    Scalar* gate = kGated ? block.gate + t * block.row_stride : nullptr;
    add_token<kGated, kSquares>(gate, block.up + t * block.row_stride, block.columns, sum);
  });
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
