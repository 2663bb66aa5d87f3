// SPDX-License-Identifier: Apache-2.0
// RMS norms with what stands next to them in a decoder layer, each in one pass over its tokens.
//
// add_rms_norm:  residual <- residual + x (where there is one), rounded; out <- norm(residual, else x)
// norm_rotary:   in place over each head n = norm(x) (x itself without a weight), then, with cos and sin,
//                x[i]         <- n[i] * cos[i]                 - n[i + dim/2] * sin[i]
//                x[i + dim/2] <- n[i + dim/2] * cos[i + dim/2] + n[i] * sin[i + dim/2]      for i < dim/2
// norm(x) = x / sqrt(mean(x^2) + eps) * weight
//
// Arithmetic is float32, rounded to the scalar once. Squares are summed in kNormLanes interleaved sums that are then
// added pairwise: the result depends neither on threads nor on the instruction set. A NaN is stored as the canonical one.
#pragma once

#include <cstdint>

#include "isa.h"

namespace nagfast {

constexpr int kNormLanes = 64;

// Scalar is float, or uint16_t holding bfloat16. Not owned. Strides are elements from one token to the next.
template <typename Scalar>
struct AddNormBatch {
  const Scalar* x;  // [tokens, columns]
  int64_t x_stride;
  Scalar* residual;  // [tokens, columns], added to; nullptr: none. Must not overlap x or out
  int64_t residual_stride;
  Scalar* out;  // [tokens, columns], written; x itself or memory of its own
  int64_t out_stride;
  int64_t tokens;
  int64_t columns;      // at least 1
  const float* weight;  // [columns]
  float eps;
};

template <typename Scalar>
struct RotaryBatch {
  Scalar* x;           // [tokens, heads, dim], heads and dim contiguous, overwritten
  int64_t row_stride;  // elements
  int64_t tokens;
  int64_t heads;
  int64_t dim;          // at least 1; even where it is turned
  const float* weight;  // [dim], or nullptr: no norm
  float eps;
  const float* cos;  // [tokens, dim], or nullptr, as sin: not turned
  const float* sin;
};

// O(tokens * columns), no memory allocated.
template <typename Scalar>
void add_rms_norm(const AddNormBatch<Scalar>& batch, int threads, Isa isa);

template <typename Scalar>
void norm_rotary(const RotaryBatch<Scalar>& batch, int threads, Isa isa);

// Tokens first to last - 1.
void norm_rows_scalar(const AddNormBatch<float>& batch, int64_t first, int64_t last);
void norm_rows_scalar(const AddNormBatch<uint16_t>& batch, int64_t first, int64_t last);
void rotary_rows_scalar(const RotaryBatch<float>& batch, int64_t first, int64_t last);
void rotary_rows_scalar(const RotaryBatch<uint16_t>& batch, int64_t first, int64_t last);
#if defined(NAGFAST_X86)
void norm_rows_avx2(const AddNormBatch<float>& batch, int64_t first, int64_t last);
void norm_rows_avx2(const AddNormBatch<uint16_t>& batch, int64_t first, int64_t last);
void rotary_rows_avx2(const RotaryBatch<float>& batch, int64_t first, int64_t last);
void rotary_rows_avx2(const RotaryBatch<uint16_t>& batch, int64_t first, int64_t last);
void norm_rows_avx512(const AddNormBatch<float>& batch, int64_t first, int64_t last);
void norm_rows_avx512(const AddNormBatch<uint16_t>& batch, int64_t first, int64_t last);
void rotary_rows_avx512(const RotaryBatch<float>& batch, int64_t first, int64_t last);
void rotary_rows_avx512(const RotaryBatch<uint16_t>& batch, int64_t first, int64_t last);
#endif

}  // namespace nagfast
