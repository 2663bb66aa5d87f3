// SPDX-License-Identifier: Apache-2.0
// Looks up the rows of bits of a batch of queries in one block.
#pragma once

#include <cstdint>
#include <vector>

#include "bit_search.h"
#include "nag_view.h"

namespace nagfast {

// Queries are looked up together, layer by layer, so that a layer's part of the map (24 KB for 6,144 neurons) is in the
// first-level cache for all of them: query by query, two thirds of the time go into waiting for it. Their indices are
// copied together first: read where they lie, 40 bytes here and there, they take longer to come than to look up.
constexpr int64_t kBitBatch = 64;

template <typename Index>
class RowLists {
 public:
  // For queries of `layers` x `k` entries.
  RowLists(int64_t layers, int64_t k);

  // Takes the queries numbers[0, size), size at most kBitBatch, and sends for those of the batch after it,
  // numbers[size, size + following).
  void take(const NagView<Index>& queries, const int64_t* numbers, int64_t size, int64_t following);

  // Lists the rows of the queries taken. map [layers, neurons]: bytes from the block's rows, 0 where it has none.
  // O(size * layers * k).
  void look_up(const uint32_t* map, int64_t neurons);

  const uint32_t* list(int64_t i) const { return lists_.data() + i * stride_; }
  // Rows of the query; the list is filled up with the zero row to a multiple of kBitGroup.
  int64_t rows(int64_t i) const { return counts_[i]; }
  int64_t padded(int64_t i) const { return (counts_[i] + kBitGroup - 1) / kBitGroup * kBitGroup; }

 private:
  int64_t layers_;
  int64_t k_;
  int64_t size_ = 0;
  int64_t stride_;
  std::vector<Index> taken_;  // [layers, size, k]: in the order in which they are looked up
  bool empty_[kBitBatch] = {};
  std::vector<uint32_t> lists_;
  int64_t counts_[kBitBatch] = {};
};

}  // namespace nagfast
