// SPDX-License-Identifier: Apache-2.0
// Targets as rows of bits, for the exact nearest targets of many queries; bit_search.h says how they are searched.
//
// A neuron that one target of a block holds needs no row of its own: the block has a row for each lane. Memory: for
// each block of kBitLanes targets 64 bytes for every (layer, neuron) that two or more of them hold, and a map of 4
// bytes for every neuron. 100,000 targets of 28 layers, K = 20, N = 6144 take about 1 GB, half of it where
// neighbours are alike. Building reads every target twice: O(targets * layers * k).
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <vector>

#include "bit_search.h"
#include "isa.h"
#include "nag_view.h"
#include "nearest.h"

namespace nagfast {

struct BitBlock {
  int64_t map;        // where its map starts, in rows from the first block's
  int64_t row;        // its zero row; then one row for each lane, then the rest, layer by layer
  int32_t lanes;      // in use, from lane 0; some between lists hold no target
  int64_t lowest_id;  // of its targets
};

// Lanes [first, last) of a block, which hold targets of one list.
struct BitRange {
  int64_t list;
  int64_t block;
  int32_t first;
  int32_t last;
};

class BitTargets {
 public:
  // order[0, count): rows of nags, in [0, nags.documents). starts[0, lists]: rising from 0 to count.
  // Throws std::invalid_argument naming the lowest document that holds an index out of range or a stray sentinel.
  template <typename Index>
  BitTargets(const NagView<Index>& nags, int64_t neurons, const int64_t* order, int64_t count, const int64_t* starts,
             int64_t lists, int threads);

  int64_t lanes() const { return targets_; }
  int64_t lists() const { return lists_; }
  int64_t bytes() const;
  int64_t layers() const { return layers_; }
  int64_t k() const { return k_; }
  int64_t neurons() const { return neurons_; }
  int64_t highest_id() const { return highest_id_; }

  // [layers, neurons]: bytes from rows(block) to the row of a neuron, 0 for none.
  const uint32_t* map(int64_t block) const {
    return reinterpret_cast<const uint32_t*>(memory_rows_ + blocks_[static_cast<size_t>(block)].map);
  }
  const int64_t* ids(int64_t block) const { return ids_.data() + block * kBitLanes; }
  int64_t lowest_id(int64_t block) const { return blocks_[static_cast<size_t>(block)].lowest_id; }
  // Everything that is read of a block: its map and its rows; nothing for a block that there is none of.
  const BitRow* begin(int64_t block) const {
    const auto number = static_cast<size_t>(block);
    return memory_rows_ + (number < blocks_.size() ? blocks_[number].map : row_count_);
  }
  const BitRow* rows(int64_t block) const { return memory_rows_ + blocks_[static_cast<size_t>(block)].row; }

  // Merges every target, under the id of its row + first, into the results of each query. Throws
  // std::invalid_argument for the lowest query that holds an index out of range, before anything is written.
  template <typename Index>
  void search(const NagView<Index>& queries, const NearestResults& results, int64_t first, int threads, Isa isa) const;

  // The same for the targets of the lists probes[query][0, width); -1 is none, and a list named twice counts once.
  template <typename Index>
  void search_lists(const NagView<Index>& queries, const int32_t* probes, int64_t width, const NearestResults& results,
                    int64_t first, int threads, Isa isa) const;

 private:
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };

  void place(const int64_t* order, const int64_t* starts, int64_t lists);
  void allocate(const std::vector<int64_t>& rows);
  template <typename Index>
  void count_rows(const NagView<Index>& nags, int64_t first, int64_t last, int64_t* rows) const;
  template <typename Index>
  void fill(const NagView<Index>& nags, int64_t block);

  int64_t layers_;
  int64_t k_;
  int64_t neurons_;
  int64_t targets_;
  int64_t lists_;
  int64_t highest_id_ = -1;
  std::vector<BitBlock> blocks_;
  std::vector<BitRange> ranges_;       // lists and blocks rise
  std::vector<int64_t> ids_;           // [blocks, kBitLanes]: row of nags, or -1
  std::unique_ptr<void, Free> memory_;
  BitRow* memory_rows_ = nullptr;      // [row_count_], within memory_
  int64_t row_count_ = 0;
};

}  // namespace nagfast
