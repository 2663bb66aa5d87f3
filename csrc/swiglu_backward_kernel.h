// SPDX-License-Identifier: Apache-2.0
// One block of the fused backward pass on the lanes of one instruction set. Included by the swiglu_backward_*.cpp files
// only, after one simd_*.h.
#pragma once

#include "gelu_tanh.h"
#include "impact_sums.h"
#include "swiglu_backward.h"

namespace nagfast {
namespace {

struct Curve {
  Lanes::Float value;  // act(g)
  Lanes::Float slope;  // act'(g)
};

Lanes::Float slope_of(Lanes::Float g, Lanes::Float s, Lanes::Float rise) {
  const Lanes::Float one = Lanes::splat(1.0f);
  return Lanes::mul(s, Lanes::fma(Lanes::mul(g, rise), Lanes::sub(one, s), one));
}

// Relative error of the value as of silu in silu.h, of the slope below 1e-6 of its largest.
template <Activation kActivation>
Curve curve(Lanes::Float gate) {
  if (kActivation == Activation::kSilu) {
    const Lanes::Float s = sigmoid(gate);
    // Kept finite: infinity times 0 would be a NaN where there is a limit.
    const Lanes::Float low = Lanes::max(Lanes::splat(-0x1.fffffep+127f), gate);
    const Lanes::Float g = Lanes::min(Lanes::splat(0x1.fffffep+127f), low);
    return {Lanes::mul(low, s), slope_of(g, s, Lanes::splat(1.0f))};
  }
  const GeluTanh x = gelu_tanh(gate);
  const Lanes::Float rise = Lanes::mul(Lanes::splat(kGeluFactor),
                                       Lanes::fma(x.square, Lanes::splat(0.134145f), Lanes::splat(1.0f)));
  return {x.value, slope_of(x.gate, x.sigmoid, rise)};
}

struct Gradients {
  Lanes::Float gate;
  Lanes::Float up;
  Lanes::Float product;  // a * d
};

template <Activation kActivation>
Gradients gradients(Lanes::Float gate, Lanes::Float up, Lanes::Float d) {
  const Curve c = curve<kActivation>(gate);
  const Lanes::Float d_up = Lanes::mul(d, c.value);
  return {Lanes::canonical_nan(Lanes::mul(Lanes::mul(d, up), c.slope)), Lanes::canonical_nan(d_up),
          Lanes::mul(up, d_up)};
}

// One token: columns in vectors, then the columns left over.
template <Activation kActivation, bool kSquares, typename Scalar>
void add_token(Scalar* gate, Scalar* up, const Scalar* d, int64_t columns, float* sum) {
  int64_t j = 0;
  for (; j + Lanes::kWidth <= columns; j += Lanes::kWidth) {
    const Gradients x = gradients<kActivation>(Lanes::load(gate + j), Lanes::load(up + j), Lanes::load(d + j));
    Lanes::store(gate + j, x.gate);
    Lanes::store(up + j, x.up);
    accumulate<kSquares>(sum + j, x.product);
  }
  const int rest = static_cast<int>(columns - j);
  if (rest == 0) return;
  const Gradients x = gradients<kActivation>(Lanes::load_some(gate + j, rest), Lanes::load_some(up + j, rest),
                                             Lanes::load_some(d + j, rest));
  Lanes::store_some(gate + j, x.gate, rest);
  Lanes::store_some(up + j, x.up, rest);
  accumulate<kSquares>(sum + j, x.product);
}

// Precondition: block.tokens >= 1, 1 <= block.columns <= kBlockColumns.
template <Activation kActivation, bool kSquares, typename Scalar>
void run_block(const BackwardBlock<Scalar>& block) {
  sum_block<kSquares>(block.tokens, block.columns, block.impact, [&](int64_t t, float* sum) {
    const int64_t row = t * block.row_stride;
    add_token<kActivation, kSquares>(block.gate + row, block.up + row, block.d_act + t * block.d_stride, block.columns,
                                     sum);
  });
}

template <typename Scalar>
void dispatch_block(const BackwardBlock<Scalar>& block) {
  const bool squares = block.reduction == Reduction::kL2;
  if (block.activation == Activation::kSilu) {
    squares ? run_block<Activation::kSilu, true>(block) : run_block<Activation::kSilu, false>(block);
  } else {
    squares ? run_block<Activation::kGeluTanh, true>(block) : run_block<Activation::kGeluTanh, false>(block);
  }
}

}  // namespace
}  // namespace nagfast
