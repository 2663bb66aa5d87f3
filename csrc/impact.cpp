// SPDX-License-Identifier: Apache-2.0
#include "impact.h"

#include <algorithm>
#include <stdexcept>

#include "parallel.h"

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

// Narrower blocks where one document is so long that whole ones would leave threads idle. Columns are independent, so
// the width does not show in the result.
template <typename Scalar>
int64_t block_width(const ImpactBatch<Scalar>& batch, int threads) {
  int64_t width = kBlockColumns;
  if (threads == 1) return width;
  int64_t longest = 0;
  for (int64_t d = 0; d < batch.documents; ++d) {
    longest = std::max(longest, batch.cu_seqlens[d + 1] - batch.cu_seqlens[d]);
  }
  const int64_t share = batch.cu_seqlens[batch.documents] * batch.columns / (4 * int64_t{threads});
  while (width > 64 && longest * width > share) width /= 2;
  return width;
}

template <typename Scalar>
void run_one(const ImpactBatch<Scalar>& batch, BlockFunction<Scalar> run, int64_t document, int64_t column,
             int64_t columns) {
  const int64_t first = batch.cu_seqlens[document];
  const int64_t tokens = batch.cu_seqlens[document + 1] - first;
  float* impact = batch.impact + document * batch.columns + column;
  if (tokens == 0) {
    std::fill(impact, impact + columns, 0.0f);
    return;
  }
  const int64_t offset = first * batch.row_stride + column;
  Scalar* gate = batch.gate == nullptr ? nullptr : batch.gate + offset;
  run({gate, batch.up + offset, batch.row_stride, tokens, columns, impact, batch.reduction});
}

}  // namespace

template <typename Scalar>
void compute_impact(const ImpactBatch<Scalar>& batch, int threads, Isa isa) {
  const BlockFunction<Scalar> run = block_function<Scalar>(isa);
  if (batch.documents == 0 || batch.columns == 0) return;
  const int64_t width = block_width(batch, threads);
  const int64_t blocks = (batch.columns + width - 1) / width;
  // Work is laid on a line, document after document and block after block inside a document, each block as long as
  // its tokens (plus one, so that empty documents have a place too). A worker takes the blocks that start in its share.
  const auto place = [&](int64_t document, int64_t block) {
    const int64_t tokens = batch.cu_seqlens[document + 1] - batch.cu_seqlens[document] + 1;
    return (batch.cu_seqlens[document] + document) * blocks + tokens * block;
  };
  const int64_t line = (batch.cu_seqlens[batch.documents] + batch.documents) * blocks;
  parallel_ranges(line, 1, threads, [&](int64_t first, int64_t last) {
    // The document that holds `first`; its earlier blocks may start before the share.
    int64_t low = 0;
    int64_t high = batch.documents;
    while (high - low > 1) {
      const int64_t middle = (low + high) / 2;
      (place(middle, 0) <= first ? low : high) = middle;
    }
    for (int64_t document = low; document < batch.documents && place(document, 0) < last; ++document) {
      for (int64_t block = 0; block < blocks; ++block) {
        const int64_t start = place(document, block);
        if (start < first || start >= last) continue;
        const int64_t column = block * width;
        run_one(batch, run, document, column, std::min(width, batch.columns - column));
      }
    }
  });
}

template void compute_impact<float>(const ImpactBatch<float>&, int, Isa);
template void compute_impact<uint16_t>(const ImpactBatch<uint16_t>&, int, Isa);

}  // namespace nagfast
