// SPDX-License-Identifier: Apache-2.0
#include "impact.h"

#include <algorithm>
#include <stdexcept>

#include "impact_blocks.h"

namespace nagfast {
namespace {

template <typename Scalar>
using BlockFunction = void (*)(const ImpactBlock<Scalar>&);

template <typename Scalar>
BlockFunction<Scalar> block_function(Isa isa) {
  switch (isa) {
    case Isa::kScalar:
      return &impact_block_scalar;
#if defined(NAGFAST_X86)
    case Isa::kAvx2:
      return &impact_block_avx2;
    case Isa::kAvx512:
      return &impact_block_avx512;
#endif
    default:
      throw std::logic_error("impact: no code for this instruction set in this build");
  }
}

}  // namespace

template <typename Scalar>
void compute_impact(const ImpactBatch<Scalar>& batch, int threads, Isa isa) {
  const BlockFunction<Scalar> run = block_function<Scalar>(isa);
  for_each_block(batch.cu_seqlens, batch.documents, batch.columns, threads,
                 [&](int64_t document, int64_t column, int64_t columns) {
                   const int64_t first = batch.cu_seqlens[document];
                   const int64_t tokens = batch.cu_seqlens[document + 1] - first;
                   float* impact = batch.impact + document * batch.columns + column;
                   if (tokens == 0) {
                     std::fill(impact, impact + columns, 0.0f);
                     return;
                   }
                   const int64_t offset = first * batch.row_stride + column;
                   Scalar* gate = batch.gate == nullptr ? nullptr : batch.gate + offset;
                   run({gate, batch.up + offset, batch.row_stride, tokens, columns, impact, batch.activation,
                       batch.reduction});
                 });
}

template void compute_impact<float>(const ImpactBatch<float>&, int, Isa);
template void compute_impact<uint16_t>(const ImpactBatch<uint16_t>&, int, Isa);

}  // namespace nagfast
