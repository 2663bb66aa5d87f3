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

constexpr uint32_t kRowBytes = sizeof(BitRow);
constexpr size_t kHugePage = size_t{1} << 21;

}  // namespace

template <typename Index>
BitTargets::BitTargets(const NagView<Index>& nags, int64_t neurons, const int64_t* order, int64_t count,
                       const int64_t* starts, int64_t lists, int threads)
    : layers_(nags.layers), k_(nags.k), neurons_(neurons), targets_(count) {
  require_documents("nags", nags, neurons, threads);
  place(order, starts, lists);
  const auto blocks = static_cast<int64_t>(blocks_.size());
  std::vector<int64_t> rows(static_cast<size_t>(blocks));
  parallel_ranges(blocks, 1, threads,
                  [&](int64_t first, int64_t last) { count_rows(nags, first, last, rows.data()); });
  allocate(rows);
  parallel_ranges(blocks, 1, threads, [&](int64_t first, int64_t last) {
    for (int64_t block = first; block < last; ++block) fill(nags, block);
  });
}

int64_t BitTargets::bytes() const {
  const size_t tables = blocks_.size() * sizeof(BitBlock) + ranges_.size() * sizeof(BitRange) +
                        list_ranges_.size() * sizeof(int64_t) + ids_.size() * sizeof(int64_t);
  return static_cast<int64_t>(tables) + row_count_ * kRowBytes;
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
      blocks_.resize(static_cast<size_t>(block + 1), BitBlock{0, 0, 0, kMaxId});
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

// rows[block] = the (layer, neuron) pairs that two or more targets of the block hold.
template <typename Index>
void BitTargets::count_rows(const NagView<Index>& nags, int64_t first, int64_t last, int64_t* rows) const {
  std::vector<int64_t> seen(static_cast<size_t>(neurons_), 0);
  int64_t once = -1;  // mark of a neuron seen once in this block and layer; once + 1 of one seen again
  for (int64_t block = first; block < last; ++block) {
    const int64_t* ids = ids_.data() + block * kBitLanes;
    rows[block] = 0;
    for (int64_t l = 0; l < layers_; ++l) {
      once += 2;
      for (int64_t lane = 0; lane < kBitLanes; ++lane) {
        if (ids[lane] < 0 || nags.starts_with_sentinel(ids[lane])) continue;
        const Index* indices = nags.document(ids[lane]) + l * nags.layer_stride;
        for (int64_t i = 0; i < nags.k; ++i) {
          int64_t& mark = seen[indices[i]];
          rows[block] += mark == once;
          mark = once + (mark >= once);
        }
      }
    }
  }
}

// One zeroed piece of memory for all maps and rows, on huge pages where there are some: a query's rows lie all over it.
void BitTargets::allocate(const std::vector<int64_t>& rows) {
  const int64_t map_rows = (layers_ * neurons_ * static_cast<int64_t>(sizeof(uint32_t)) + kRowBytes - 1) / kRowBytes;
  for (size_t block = 0; block < blocks_.size(); ++block) {
    blocks_[block].map = row_count_;
    blocks_[block].row = row_count_ + map_rows;
    row_count_ += map_rows + 1 + kBitLanes + rows[block];
  }
  const size_t bytes = static_cast<size_t>(row_count_) * kRowBytes;
  const size_t alignment = bytes >= kHugePage ? kHugePage : alignof(BitRow);
  memory_.reset(std::calloc(bytes + alignment, 1));
  if (!memory_) throw std::bad_alloc();
  void* start = memory_.get();
  size_t space = bytes + alignment;
  memory_rows_ = static_cast<BitRow*>(std::align(alignment, bytes, start, space));
#if defined(__linux__)
  if (alignment == kHugePage) madvise(memory_rows_, bytes, MADV_HUGEPAGE);
#endif
}

// Gives rows to the neurons of each layer in the order in which a second target brings them up: the popular ones early.
template <typename Index>
void BitTargets::fill(const NagView<Index>& nags, int64_t block) {
  const BitBlock& entry = blocks_[static_cast<size_t>(block)];
  const int64_t* ids = ids_.data() + block * kBitLanes;
  auto* map = reinterpret_cast<uint32_t*>(memory_rows_ + entry.map);
  BitRow* rows = memory_rows_ + entry.row;
  const auto set = [rows](uint32_t row, uint32_t lane) { rows[row].words[lane / 64] |= uint64_t{1} << (lane % 64); };
  for (uint32_t lane = 0; lane < kBitLanes; ++lane) set(lane + 1, lane);
  uint32_t used = kBitLanes;
  for (int64_t l = 0; l < layers_; ++l, map += neurons_) {
    for (uint32_t lane = 0; lane < kBitLanes; ++lane) {
      if (ids[lane] < 0 || nags.starts_with_sentinel(ids[lane])) continue;
      const Index* indices = nags.document(ids[lane]) + l * nags.layer_stride;
      for (int64_t i = 0; i < nags.k; ++i) {
        uint32_t& offset = map[indices[i]];
        const uint32_t row = offset / kRowBytes;
        if (row > kBitLanes) {
          set(row, lane);
        } else if (row == 0) {
          offset = (lane + 1) * kRowBytes;
        } else if (row != lane + 1) {  // the second target: a row of its own
          offset = ++used * kRowBytes;
          set(used, row - 1);
          set(used, lane);
        }
      }
    }
  }
}

template BitTargets::BitTargets(const NagView<uint16_t>&, int64_t, const int64_t*, int64_t, const int64_t*, int64_t,
                                int);
template BitTargets::BitTargets(const NagView<uint32_t>&, int64_t, const int64_t*, int64_t, const int64_t*, int64_t,
                                int);

}  // namespace nagfast
