// SPDX-License-Identifier: Apache-2.0
// Impact of each neuron on each document of a packed batch, fused with act(gate) * up where the gate is at hand.
//
// mean_abs: impact[d][k] = (1 / T_d) sum_t |u[t][k]|        l2: impact[d][k] = sqrt(sum_t u[t][k]^2)
//
// Sums are float32, over chunks of kChunkTokens tokens counted from the document's own first token, the sums of the
// chunks added in order: the result does not depend on what else is packed, on threads or on the instruction set.
// An empty document has impact 0. A NaN is stored as the canonical quiet NaN.
#pragma once

#include <cstdint>

#include "isa.h"

namespace nagfast {

constexpr int64_t kChunkTokens = 128;
constexpr int64_t kBlockColumns = 512;

enum class Reduction { kMeanAbs, kL2 };
enum class Activation { kSilu, kGeluTanh };

// Scalar is float, or uint16_t holding bfloat16. Not owned. O(tokens * columns); no memory is allocated per token.
template <typename Scalar>
struct ImpactBatch {
  Scalar* gate;               // [tokens, columns], overwritten with act(gate) * up; nullptr: impact only
  const Scalar* up;           // [tokens, columns], must not overlap gate
  int64_t row_stride;         // elements from one token to the next, of gate and of up
  int64_t columns;
  const int64_t* cu_seqlens;  // [documents + 1], from 0, non-decreasing
  int64_t documents;
  float* impact;              // [documents, columns], contiguous, written
  Activation activation;      // of the gate
  Reduction reduction;
};

template <typename Scalar>
void compute_impact(const ImpactBatch<Scalar>& batch, int threads, Isa isa);

// One document, at most kBlockColumns columns.
template <typename Scalar>
struct ImpactBlock {
  Scalar* gate;
  const Scalar* up;
  int64_t row_stride;
  int64_t tokens;
  int64_t columns;
  float* impact;
  Activation activation;
  Reduction reduction;
};

void impact_block_scalar(const ImpactBlock<float>& block);
void impact_block_scalar(const ImpactBlock<uint16_t>& block);
#if defined(NAGFAST_X86)
void impact_block_avx2(const ImpactBlock<float>& block);
void impact_block_avx2(const ImpactBlock<uint16_t>& block);
void impact_block_avx512(const ImpactBlock<float>& block);
void impact_block_avx512(const ImpactBlock<uint16_t>& block);
#endif

}  // namespace nagfast
