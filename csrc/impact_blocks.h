// SPDX-License-Identifier: Apache-2.0
// A packed batch cut into blocks of one document by a few columns, shared among threads. Not for files of a single
// instruction set: functions here may be merged by the linker.
#pragma once

#include <algorithm>
#include <cstdint>

#include "impact.h"
#include "parallel.h"

namespace nagfast {

// Narrower blocks where one document is so long that whole ones would leave threads idle. Columns are independent, so
// the width does not show in the result.
inline int64_t block_width(const int64_t* cu_seqlens, int64_t documents, int64_t columns, int threads) {
  int64_t width = kBlockColumns;
  if (threads == 1) return width;
  int64_t longest = 0;
  for (int64_t d = 0; d < documents; ++d) longest = std::max(longest, cu_seqlens[d + 1] - cu_seqlens[d]);
  const int64_t share = cu_seqlens[documents] * columns / (4 * int64_t{threads});
  while (width > 64 && longest * width > share) width /= 2;
  return width;
}

// Calls work(document, column, columns) for every block, at most kBlockColumns columns each; empty documents too.
template <typename Work>
void for_each_block(const int64_t* cu_seqlens, int64_t documents, int64_t columns, int threads, const Work& work) {
  if (documents == 0 || columns == 0) return;
  const int64_t width = block_width(cu_seqlens, documents, columns, threads);
  const int64_t blocks = (columns + width - 1) / width;
  // Work is laid on a line, document after document and block after block inside a document, each block as long as
  // its tokens (plus one, so that empty documents have a place too). A worker takes the blocks that start in its share.
  const auto place = [&](int64_t document, int64_t block) {
    const int64_t tokens = cu_seqlens[document + 1] - cu_seqlens[document] + 1;
    return (cu_seqlens[document] + document) * blocks + tokens * block;
  };
  const int64_t line = (cu_seqlens[documents] + documents) * blocks;
  parallel_ranges(line, 1, threads, [&](int64_t first, int64_t last) {
    // The document that holds `first`; its earlier blocks may start before the share.
    int64_t low = 0;
    int64_t high = documents;
    while (high - low > 1) {
      const int64_t middle = (low + high) / 2;
      (place(middle, 0) <= first ? low : high) = middle;
    }
    for (int64_t document = low; document < documents && place(document, 0) < last; ++document) {
      for (int64_t block = 0; block < blocks; ++block) {
        const int64_t start = place(document, block);
        if (start < first || start >= last) continue;
        const int64_t column = block * width;
        work(document, column, std::min(width, columns - column));
      }
    }
  });
}

}  // namespace nagfast
