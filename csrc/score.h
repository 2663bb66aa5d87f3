// SPDX-License-Identifier: Apache-2.0
// out[d][p] = sum over l, i of table[l][nags[d][l][i]][p], exact in 64-bit integers; 0 for a document without a NAG.
//
// The plain loop (scalar) goes document by document and spends its time waiting for the second-level cache: a table of
// 28 x 6144 uint16 counts has 344 KB. The fast paths take a block of documents layer by layer, so that one layer's
// 12 KB stay in the first level, and prefetch the rows of documents ahead, whose stride defeats the hardware. Vector
// gathers do not pay. Every index is checked before it is used, by a vector maximum per document.
// O(documents * layers * k * profiles).
#pragma once

#include <cstdint>

#include "isa.h"
#include "nag_view.h"

namespace nagfast {

// Not owned. Count is uint16_t or uint32_t.
template <typename Index, typename Count>
struct ScoreTask {
  NagView<Index> nags;
  const Count* table;  // [layers, neurons, profiles], contiguous
  int64_t neurons;
  int64_t profiles;
  int64_t* out;        // [documents, profiles], contiguous, written
};

// Throws std::invalid_argument naming the lowest document that holds an index out of range or a stray sentinel; `out`
// may then be partly written. Nothing out of bounds is read.
template <typename Index, typename Count>
void score(const ScoreTask<Index, Count>& task, int threads, Isa isa);

// Documents taken together. With many profiles a layer's table is large, and only a large block comes back to a row
// of it before it has left the cache.
constexpr int64_t score_block_documents(int64_t profiles) { return profiles == 1 ? 128 : 1024; }
constexpr int64_t kScoreAhead = 8;

// A document whose indices have been checked, and where its sums go.
template <typename Index>
struct ScoreRow {
  const Index* indices;
  int64_t* sums;
};

// The rows of one layer for a block of documents. rows[count .. count + kScoreAhead) are valid to prefetch.
template <typename Index, typename Count>
struct ScoreLayer {
  const ScoreRow<Index>* rows;
  int64_t count;
  int64_t offset;      // of the layer, in elements from rows[i].indices
  int64_t k;
  const Count* table;  // [neurons, profiles]
  int64_t profiles;
  uintptr_t ahead;     // address of what the documents send for, a cache line each: the block after this one
};

// What an instruction set provides: the largest of n entries (0 for none), and sums += the table rows of one layer.
uint16_t largest_avx2(const uint16_t* entries, int64_t n);
uint32_t largest_avx2(const uint32_t* entries, int64_t n);
void add_layer_avx2(const ScoreLayer<uint16_t, uint16_t>& layer);
void add_layer_avx2(const ScoreLayer<uint16_t, uint32_t>& layer);
void add_layer_avx2(const ScoreLayer<uint32_t, uint16_t>& layer);
void add_layer_avx2(const ScoreLayer<uint32_t, uint32_t>& layer);

uint16_t largest_avx512(const uint16_t* entries, int64_t n);
uint32_t largest_avx512(const uint32_t* entries, int64_t n);
void add_layer_avx512(const ScoreLayer<uint16_t, uint16_t>& layer);
void add_layer_avx512(const ScoreLayer<uint16_t, uint32_t>& layer);
void add_layer_avx512(const ScoreLayer<uint32_t, uint16_t>& layer);
void add_layer_avx512(const ScoreLayer<uint32_t, uint32_t>& layer);

// The plain loop on documents [first, last): the definition of the others.
template <typename Index, typename Count>
void score_scalar(const ScoreTask<Index, Count>& task, int64_t first, int64_t last);

}  // namespace nagfast
