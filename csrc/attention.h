// SPDX-License-Identifier: Apache-2.0
// Causal attention inside each document of a packed batch, grouped heads and a sliding window included.
//
// out[t][h] = sum_j w_j value[j][g] / sum_j w_j,  w_j = exp(scale (query[t][h] . key[j][g] - max)),  g = h's group,
// j from max(first token of the document, t - window + 1) to t.
//
// Tiles of kAttentionRows queries, counted from the document's own first token, against all keys before them; scores stay
// in cache, so memory grows with the document's length only. Arithmetic is float32, rounded to the scalar once. Every
// dot product and weighted sum is a chain of fused multiply-adds in order, lanes being keys in the first and columns in
// the second: the result depends neither on what else is packed, nor on threads, nor on the instruction set. A NaN
// reaches every query that may see it; in a value it may reach others of the document as well: those before it in the
// tile, and up to 20 after it whose window it has just left.
#pragma once

#include <cstdint>

#include "isa.h"

namespace nagfast {

constexpr int64_t kAttentionRows = 6;
constexpr int64_t kAttentionPad = 64;  // the widest strip of keys or columns of any instruction set
constexpr int64_t kWeightLanes = 16;   // interleaved sums of the weights

// Scalar is float, or uint16_t holding bfloat16. Not owned. Strides are elements from one token to the next; heads and
// their elements are contiguous. O(heads * (dim + value_dim) * sum of squared lengths).
template <typename Scalar>
struct AttentionBatch {
  const Scalar* query;  // [tokens, heads, dim]
  int64_t query_stride;
  const Scalar* key;  // [tokens, groups, dim]
  int64_t key_stride;
  const Scalar* value;  // [tokens, groups, value_dim]
  int64_t value_stride;
  Scalar* out;  // [tokens, heads, value_dim], written, overlaps none of the others
  int64_t out_stride;
  const int64_t* cu_seqlens;  // [documents + 1], from 0, non-decreasing
  int64_t documents;
  int64_t heads;      // a multiple of groups
  int64_t groups;     // at least 1
  int64_t dim;        // at least 1
  int64_t value_dim;  // at least 1
  float scale;        // above 0
  int64_t window;     // tokens a query sees, itself included; at least 1
};

template <typename Scalar>
void causal_attention(const AttentionBatch<Scalar>& batch, int threads, Isa isa);

// Memory of one worker, on 64-byte boundaries; the layout is the instruction set's own.
struct AttentionScratch {
  float* keys;     // dim * padded length
  float* values;   // length * padded value_dim
  float* queries;  // kAttentionRows * dim
  float* weights;  // kAttentionRows * padded length
};

// All query heads of one group in one document of at least one token.
template <typename Scalar>
struct AttentionGroup {
  const AttentionBatch<Scalar>* batch;
  int64_t first;   // token
  int64_t tokens;
  int64_t group;
};

void attend_group_scalar(const AttentionGroup<float>& group, const AttentionScratch& scratch);
void attend_group_scalar(const AttentionGroup<uint16_t>& group, const AttentionScratch& scratch);
#if defined(NAGFAST_X86)
void attend_group_avx2(const AttentionGroup<float>& group, const AttentionScratch& scratch);
void attend_group_avx2(const AttentionGroup<uint16_t>& group, const AttentionScratch& scratch);
void attend_group_avx512(const AttentionGroup<float>& group, const AttentionScratch& scratch);
void attend_group_avx512(const AttentionGroup<uint16_t>& group, const AttentionScratch& scratch);
#endif

}  // namespace nagfast
