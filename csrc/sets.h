// SPDX-License-Identifier: Apache-2.0
// Neurons in common of documents: out = sum over l of |A_l and B_l|, or of the weights of the neurons in it. Exact.
// A document without a NAG (sentinel) is the empty set.
//
// Plain: mark A in a table of L x N cells, look up the entries of B, clear A again. The table does not fit the first
// cache, and every entry costs a load, so the vector paths keep A in registers' worth of buckets (set_buckets.h) and
// test 16 or 32 entries of B at once, 3 instructions a bucket position; documents ahead are prefetched, as those
// of a candidate list lie anywhere. The vector paths serve uint16 without weights, k from 16 to 96; the table the rest.
// Where the processor has it, an instruction that intersects vectors (VP2INTERSECT) serves documents whose entries lie
// in one run; the buckets of AVX-512 the others.
#pragma once

#include <cstdint>

#include "isa.h"
#include "nag_view.h"
#include "set_buckets.h"
#include "set_vectors.h"

namespace nagfast {

// Not owned. Sum is int32_t without weights, int64_t with them.
template <typename Index, typename Sum>
struct OverlapTask {
  NagView<Index> a;
  NagView<Index> b;
  int64_t neurons;
  const uint32_t* weights;  // [layers, neurons], or null
  Sum* out;                 // contiguous, written
};

// out[i] <- a[i], b[i].
template <typename Index, typename Sum>
void overlap_pairs(const OverlapTask<Index, Sum>& task, int threads);

// out[i][j] <- a[i], b[j].
template <typename Index, typename Sum>
void overlap_matrix(const OverlapTask<Index, Sum>& task, int threads, Isa isa);

// out[i][j] <- a[i], b[candidates[i][j]]; -1 where the candidate is -1. candidates: [a.documents, columns], contiguous.
template <typename Index, typename Sum>
void overlap_candidates(const OverlapTask<Index, Sum>& task, const int64_t* candidates, int64_t columns, int threads,
                        Isa isa);

// All three throw std::invalid_argument naming the array and the document for an index out of range, a stray sentinel,
// or a candidate that is no row of b: the first in the order of `out`, whatever the threads. `out` may then be
// partly written. Nothing out of bounds is read.

constexpr int64_t kOverlapAhead = 4;

// Documents with a NAG. documents[count .. count + kOverlapAhead) are valid to prefetch.
template <typename Index>
struct OverlapRows {
  const Index* const* documents;
  int64_t count;
  int64_t layers;
  int64_t layer_stride;
  int64_t k;
  int64_t neurons;
};

// What an instruction set provides: the sums of `rows` with one set. Stops at the first document that holds an index out
// of range and returns its position; `rows.count` if there is none.
template <typename Index, typename Cell, typename Sum>
int64_t overlap_rows_scalar(const Cell* table, const OverlapRows<Index>& rows, Sum* out);

// Preconditions: rows.k >= 16; layers * k below 2^15, as lanes count in 16 bits. Sets of 3 bits, 8 buckets.
int64_t overlap_rows_avx2(const BucketView& set, const OverlapRows<uint16_t>& rows, int32_t* out);
// The same for sets of 5 bits, 32 buckets.
int64_t overlap_rows_avx512(const BucketView& set, const OverlapRows<uint16_t>& rows, int32_t* out);
// For documents whose layer_stride is k.
int64_t overlap_rows_vp2intersect(const SetVectorView& set, const OverlapRows<uint16_t>& rows, int32_t* out);

}  // namespace nagfast
