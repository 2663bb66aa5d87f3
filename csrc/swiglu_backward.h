// SPDX-License-Identifier: Apache-2.0
// Backward pass of a gated MLP's activation a = act(g) * u, fused with the activation-times-gradient impact.
//
// With d = dloss/da, in place:     g <- d * u * act'(g)          u <- d * act(g)
// mean_abs: impact[d][k] = (1 / T_d) sum_t |a[t][k] * d[t][k]|   l2: the root of the sum of the squares
//
// act(g) = g * s(z(g)) and act'(g) = s * (1 + g * (1 - s) * z'(g)), s(z) = 1 / (1 + exp(-z)), with
//   silu       z = g                                   z' = 1
//   gelu_tanh  z = sqrt(8 / pi) (g + 0.044715 g^3)     z' = sqrt(8 / pi) (1 + 3 * 0.044715 g^2), g clamped to [-10, 10]
// (0.5 (1 + tanh(z / 2)) is s(z); at |g| = 10 s is 0 or 1 to 38 digits). Order of sums, NaN and empty documents: impact.h.
#pragma once

#include <cstdint>

#include "impact.h"
#include "isa.h"

namespace nagfast {

// Scalar is float, or uint16_t holding bfloat16. Not owned. O(tokens * columns).
template <typename Scalar>
struct BackwardBatch {
  Scalar* gate;               // [tokens, columns], overwritten
  Scalar* up;                 // [tokens, columns], overwritten, must not overlap gate
  int64_t row_stride;         // elements from one token to the next, of gate and of up
  const Scalar* d_act;        // [tokens, columns], must not overlap gate or up
  int64_t d_stride;           // elements from one token to the next, of d_act
  int64_t columns;
  const int64_t* cu_seqlens;  // [documents + 1], from 0, non-decreasing
  int64_t documents;
  float* impact;              // [documents, columns], contiguous, written
  Activation activation;
  Reduction reduction;
};

template <typename Scalar>
void swiglu_backward(const BackwardBatch<Scalar>& batch, int threads, Isa isa);

// One document, at most kBlockColumns columns.
template <typename Scalar>
struct BackwardBlock {
  Scalar* gate;
  Scalar* up;
  int64_t row_stride;
  const Scalar* d_act;
  int64_t d_stride;
  int64_t tokens;
  int64_t columns;
  float* impact;
  Activation activation;
  Reduction reduction;
};

void backward_block_scalar(const BackwardBlock<float>& block);
void backward_block_scalar(const BackwardBlock<uint16_t>& block);
#if defined(NAGFAST_X86)
void backward_block_avx2(const BackwardBlock<float>& block);
void backward_block_avx2(const BackwardBlock<uint16_t>& block);
void backward_block_avx512(const BackwardBlock<float>& block);
void backward_block_avx512(const BackwardBlock<uint16_t>& block);
#endif

}  // namespace nagfast
