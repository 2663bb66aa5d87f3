// SPDX-License-Identifier: Apache-2.0
// Looks up the rows of bits of many queries in one block.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "bit_search.h"
#include "nag_view.h"
#include "prefetch.h"

namespace nagfast {

// Queries are looked up together, layer by layer, so that a layer's part of the map (24 KB for 6,144 neurons) is in the
// first-level cache for all of them: query by query, two thirds of the time go into waiting for it. Their indices are
// copied together first, layer by layer: read where they lie, 40 bytes here and there, they take longer to come than to
// look up.
constexpr int64_t kBitBatch = 256;

template <typename Index>
class RowLists {
 public:
  explicit RowLists(const NagView<Index>& queries);

  // Takes the queries number_of(0..size) in place of those taken before: O(size * layers * k).
  template <typename NumberOf>
  void take(int64_t size, const NumberOf& number_of);

  // Lists the rows of the layers [start, end) of the queries at places[0, size) among those taken, size at most
  // kBitBatch. map [layers, neurons]: bytes from the block's rows, 0 where it has none. O(size * (end - start) * k).
  void look_up(const uint32_t* map, int64_t neurons, int64_t start, int64_t end, const int64_t* places, int64_t size);

  // The rows of the i-th query looked up, filled up with the zero row to a multiple of kBitGroup.
  const uint32_t* list(int64_t i) const { return lists_.data() + i * stride_; }
  int64_t padded(int64_t i) const { return (counts_[i] + kBitGroup - 1) / kBitGroup * kBitGroup; }

 private:
  // Sends for a query to be taken.
  NAGFAST_ALWAYS_INLINE void send_for(int64_t query) const {
    const Index* indices = queries_.document(query);
    for (int64_t l = 0; l < queries_.layers; ++l) NAGFAST_PREFETCH(indices + l * queries_.layer_stride);
  }

  const NagView<Index>& queries_;
  int64_t size_ = 0;
  int64_t stride_;
  int64_t room_ = 0;
  std::unique_ptr<Index[]> taken_;  // [layers, size_, k]
  std::vector<char> empty_;   // [size_]: without a NAG
  std::vector<uint32_t> lists_;
  int64_t counts_[kBitBatch] = {};
};

template <typename Index>
template <typename NumberOf>
void RowLists<Index>::take(int64_t size, const NumberOf& number_of) {
  constexpr int64_t kAhead = 8;
  const int64_t k = queries_.k;
  size_ = size;
  const int64_t entries = queries_.layers * size * k;
  if (entries > room_) {
    taken_.reset(new Index[static_cast<size_t>(entries)]);  // not set to zero first
    room_ = entries;
  }
  empty_.resize(static_cast<size_t>(size));
  for (int64_t i = 0; i < size; ++i) {
    if (i + kAhead < size) send_for(number_of(i + kAhead));
    const int64_t query = number_of(i);
    empty_[static_cast<size_t>(i)] = queries_.starts_with_sentinel(query);
    const Index* from = queries_.document(query);
    Index* to = taken_.get() + i * k;
    for (int64_t l = 0; l < queries_.layers; ++l, from += queries_.layer_stride, to += size * k) {
      std::memcpy(to, from, static_cast<size_t>(k) * sizeof(Index));
    }
  }
}

}  // namespace nagfast
