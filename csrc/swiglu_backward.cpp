// SPDX-License-Identifier: Apache-2.0
#include "swiglu_backward.h"

#include <algorithm>
#include <stdexcept>

#include "impact_blocks.h"

namespace nagfast {
namespace {

template <typename Scalar>
using BlockFunction = void (*)(const BackwardBlock<Scalar>&);

template <typename Scalar>
BlockFunction<Scalar> block_function(Isa isa) {
  switch (isa) {
    case Isa::kScalar:
      return &backward_block_scalar;
#if defined(NAGFAST_X86)
    case Isa::kAvx2:
      return &backward_block_avx2;
    case Isa::kAvx512:
      return &backward_block_avx512;
#endif
    default:
      throw std::logic_error("swiglu_backward: no code for this instruction set in this build");
  }
}

}  // namespace

template <typename Scalar>
void swiglu_backward(const BackwardBatch<Scalar>& batch, int threads, Isa isa) {
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
                   run({batch.gate + offset, batch.up + offset, batch.row_stride,
                        batch.d_act + first * batch.d_stride + column, batch.d_stride, tokens, columns, impact,
                        batch.activation, batch.reduction});
                 });
}

template void swiglu_backward<float>(const BackwardBatch<float>&, int, Isa);
template void swiglu_backward<uint16_t>(const BackwardBatch<uint16_t>&, int, Isa);

}  // namespace nagfast
