// SPDX-License-Identifier: Apache-2.0
#include "bit_targets.h"

#include <algorithm>
#include <new>

#include "nag_check.h"
#include "parallel.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace nagfast {
namespace {

constexpr size_t kHugePage = size_t{1} << 21;

}  // namespace

template <typename Index>
BitTargets::BitTargets(const NagView<Index>& nags, int64_t neurons, const int64_t* order, int64_t count,
                       const int64_t* starts, int64_t lists, int threads)
    : layers_(nags.layers), k_(nags.k), neurons_(neurons), targets_(count) {
  require_documents("nags", nags, neurons, threads);
  place(order, starts, lists);
  const auto blocks = static_cast<int64_t>(blocks_.size());
  std::vector<uint32_t> rows(static_cast<size_t>(blocks * layers_));
  parallel_ranges(blocks, 1, threads,
                  [&](int64_t first, int64_t last) { count_rows(nags, first, last, rows.data()); });
  allocate(rows);
  parallel_ranges(blocks, 1, threads, [&](int64_t first, int64_t last) {
    for (int64_t block = first; block < last; ++block) fill(nags, block);
  });
}

int64_t BitTargets::bytes() const {
  const size_t tables = blocks_.size() * sizeof(BitBlock) + ranges_.size() * sizeof(BitRange) +
                        list_ranges_.size() * sizeof(int64_t) + ids_.size() * sizeof(int64_t) +
                        maps_.size() * sizeof(uint16_t) + bases_.size() * sizeof(uint32_t);
  return static_cast<int64_t>(tables) + row_count_ * static_cast<int64_t>(sizeof(BitRow));
}

// Gives every target a lane. A list that fits into half a block stays within a half, and one that fits into a block
// within a block, so that few vectors have to be added for it.
void BitTargets::place(const int64_t* order, const int64_t* starts, int64_t lists) {
  constexpr int64_t kHalf = kBitLanes / 2;
  list_ranges_.reserve(static_cast<size_t>(lists + 1));
  int64_t lane = 0;  // counted over all blocks
  for (int64_t list = 0; list < lists; ++list) {
    list_ranges_.push_back(static_cast<int64_t>(ranges_.size()));
    const int64_t size = starts[list + 1] - starts[list];
    const int64_t unit = size <= kHalf ? kHalf : kBitLanes;
    if (lane % unit + size > unit && lists > 1) lane = (lane + unit - 1) / unit * unit;
    for (int64_t done = 0; done < size;) {
      const int64_t block = lane / kBitLanes;
      const int64_t taken = std::min(size - done, kBitLanes - lane % kBitLanes);
      blocks_.resize(static_cast<size_t>(block + 1), BitBlock{0, 0, kMaxId});
      ids_.resize(static_cast<size_t>((block + 1) * kBitLanes), -1);
      const auto first = static_cast<int32_t>(lane % kBitLanes);
      ranges_.push_back({block, first, first + static_cast<int32_t>(taken)});
      BitBlock& entry = blocks_.back();
      entry.lanes = ranges_.back().last;
      for (int64_t i = 0; i < taken; ++i) {
        const int64_t id = order[starts[list] + done + i];
        ids_[static_cast<size_t>(lane + i)] = id;
        entry.lowest_id = std::min(entry.lowest_id, id);
        highest_id_ = std::max(highest_id_, id);
      }
      done += taken;
      lane += taken;
    }
  }
  list_ranges_.push_back(static_cast<int64_t>(ranges_.size()));
}

// rows[block][layer] = the neurons of the layer that some target of the block holds.
template <typename Index>
void BitTargets::count_rows(const NagView<Index>& nags, int64_t first, int64_t last, uint32_t* rows) const {
  std::vector<uint32_t> seen(static_cast<size_t>(neurons_), 0);
  uint32_t mark = 0;
  for (int64_t block = first; block < last; ++block) {
    const int64_t* ids = ids_.data() + block * kBitLanes;
    for (int64_t l = 0; l < layers_; ++l) {
      if (++mark == 0) {  // wrapped around: forget everything
        std::fill(seen.begin(), seen.end(), 0u);
        mark = 1;
      }
      uint32_t found = 0;
      for (int64_t lane = 0; lane < kBitLanes; ++lane) {
        if (ids[lane] < 0 || nags.starts_with_sentinel(ids[lane])) continue;
        const Index* indices = nags.document(ids[lane]) + l * nags.layer_stride;
        for (int64_t i = 0; i < nags.k; ++i) {
          found += seen[indices[i]] != mark;
          seen[indices[i]] = mark;
        }
      }
      rows[block * layers_ + l] = found;
    }
  }
}

// One zeroed piece of memory for all rows, on huge pages where there are some: the rows of a query lie all over it.
void BitTargets::allocate(const std::vector<uint32_t>& rows) {
  for (size_t block = 0; block < blocks_.size(); ++block) {
    blocks_[block].row = row_count_++;
    for (int64_t l = 0; l < layers_; ++l) row_count_ += rows[block * static_cast<size_t>(layers_) + l];
  }
  const size_t bytes = static_cast<size_t>(row_count_) * sizeof(BitRow);
  const size_t alignment = bytes >= kHugePage ? kHugePage : alignof(BitRow);
  memory_.reset(std::calloc(bytes + alignment, 1));
  if (!memory_) throw std::bad_alloc();
  void* start = memory_.get();
  size_t space = bytes + alignment;
  rows_ = static_cast<BitRow*>(std::align(alignment, bytes, start, space));
#if defined(__linux__)
  if (alignment == kHugePage) madvise(rows_, bytes, MADV_HUGEPAGE);
#endif
  maps_.resize(blocks_.size() * static_cast<size_t>(layers_ * neurons_));
  bases_.resize(blocks_.size() * static_cast<size_t>(layers_));
}

// Numbers the rows of each layer in the order in which the block's targets bring them up, the popular ones early.
template <typename Index>
void BitTargets::fill(const NagView<Index>& nags, int64_t block) {
  const int64_t* ids = ids_.data() + block * kBitLanes;
  BitRow* rows = rows_ + blocks_[static_cast<size_t>(block)].row;
  uint32_t base = 0;
  for (int64_t l = 0; l < layers_; ++l) {
    uint16_t* map = maps_.data() + (block * layers_ + l) * neurons_;
    uint32_t used = 0;
    for (int64_t lane = 0; lane < kBitLanes; ++lane) {
      if (ids[lane] < 0 || nags.starts_with_sentinel(ids[lane])) continue;
      const Index* indices = nags.document(ids[lane]) + l * nags.layer_stride;
      const uint64_t bit = uint64_t{1} << (lane % 64);
      for (int64_t i = 0; i < nags.k; ++i) {
        uint16_t& number = map[indices[i]];
        if (number == 0) number = static_cast<uint16_t>(++used);
        rows[base + number].words[lane / 64] |= bit;
      }
    }
    bases_[static_cast<size_t>(block * layers_ + l)] = base;
    base += used;
  }
}

template BitTargets::BitTargets(const NagView<uint16_t>&, int64_t, const int64_t*, int64_t, const int64_t*, int64_t,
                                int);
template BitTargets::BitTargets(const NagView<uint32_t>&, int64_t, const int64_t*, int64_t, const int64_t*, int64_t,
                                int);

}  // namespace nagfast
