// SPDX-License-Identifier: Apache-2.0
// The impact of one block of columns on the lanes of one instruction set. Included by the impact_*.cpp files only,
// after one simd_*.h.
#pragma once

#include "gelu_tanh.h"
#include "impact.h"
#include "impact_sums.h"
#include "silu.h"

namespace nagfast {
namespace {

// How a block is run: impact only, or gated by an activation.
enum class Gate { kNone, kSilu, kGeluTanh };

template <Gate kGate>
Lanes::Float activate(Lanes::Float gate) {
  return kGate == Gate::kSilu ? silu(gate) : gelu_tanh(gate).value;
}

// One token: columns in vectors, then the columns left over. `gate` is nullptr where there is none.
template <Gate kGate, bool kSquares, typename Scalar>
void add_token(Scalar* gate, const Scalar* up, int64_t columns, float* sum) {
  int64_t j = 0;
  for (; j + Lanes::kWidth <= columns; j += Lanes::kWidth) {
    const Lanes::Float u = Lanes::load(up + j);
    if (kGate != Gate::kNone) {
      Lanes::store(gate + j, Lanes::canonical_nan(Lanes::mul(activate<kGate>(Lanes::load(gate + j)), u)));
    }
    accumulate<kSquares>(sum + j, u);
  }
  const int rest = static_cast<int>(columns - j);
  if (rest == 0) return;
  const Lanes::Float u = Lanes::load_some(up + j, rest);
  if (kGate != Gate::kNone) {
    const Lanes::Float g = Lanes::load_some(gate + j, rest);
    Lanes::store_some(gate + j, Lanes::canonical_nan(Lanes::mul(activate<kGate>(g), u)), rest);
  }
  accumulate<kSquares>(sum + j, u);
}

// Precondition: block.tokens >= 1, 1 <= block.columns <= kBlockColumns.
template <Gate kGate, bool kSquares, typename Scalar>
void run_block(const ImpactBlock<Scalar>& block) {
  sum_block<kSquares>(block.tokens, block.columns, block.impact, [&](int64_t t, float* sum) {
    Scalar* gate = kGate == Gate::kNone ? nullptr : block.gate + t * block.row_stride;
    add_token<kGate, kSquares>(gate, block.up + t * block.row_stride, block.columns, sum);
  });
}

template <Gate kGate, typename Scalar>
void reduce_block(const ImpactBlock<Scalar>& block) {
  block.reduction == Reduction::kL2 ? run_block<kGate, true>(block) : run_block<kGate, false>(block);
}

template <typename Scalar>
void dispatch_block(const ImpactBlock<Scalar>& block) {
  if (block.gate == nullptr) return reduce_block<Gate::kNone>(block);
  if (block.activation == Activation::kSilu) return reduce_block<Gate::kSilu>(block);
  reduce_block<Gate::kGeluTanh>(block);
}

}  // namespace
}  // namespace nagfast
