// SPDX-License-Identifier: Apache-2.0
// Looks up the rows of bits of many queries in one block.
#pragma once

#include <cstdint>
#include <vector>

#include "bit_search.h"
#include "nag_view.h"

namespace nagfast {

// Queries are looked up together, layer by layer, so that a layer's part of the map (24 KB for 6,144 neurons) is in the
// first-level cache for all of them: query by query, two thirds of the time go into waiting for it. Their indices are
// copied together first, layer by layer: read where they lie, 40 bytes here and there, they take longer to come than to
// look up.
constexpr int64_t kBitBatch = 256;

template <typename Index>
class RowLists {
 public:
  // Takes the queries [first, last): O((last - first) * layers * k).
  RowLists(const NagView<Index>& queries, int64_t first, int64_t last);

  // Lists the rows of the layers [start, end) of the queries numbers[0, size), size at most kBitBatch, all of those
  // taken. map [layers, neurons]: bytes from the block's rows, 0 where it has none. O(size * (end - start) * k).
  void look_up(const uint32_t* map, int64_t neurons, int64_t start, int64_t end, const int64_t* numbers, int64_t size);

  // The rows of the i-th query looked up, filled up with the zero row to a multiple of kBitGroup.
  const uint32_t* list(int64_t i) const { return lists_.data() + i * stride_; }
  int64_t padded(int64_t i) const { return (counts_[i] + kBitGroup - 1) / kBitGroup * kBitGroup; }

 private:
  int64_t layers_;
  int64_t k_;
  int64_t first_;
  int64_t taken_count_;
  int64_t stride_;
  std::vector<Index> taken_;  // [layers, taken_count_, k]
  std::vector<char> empty_;   // [taken_count_]: without a NAG
  std::vector<uint32_t> lists_;
  int64_t counts_[kBitBatch] = {};
};

}  // namespace nagfast
