// SPDX-License-Identifier: Apache-2.0
#include "row_lists.h"

#include <algorithm>
#include <cstring>

#include "prefetch.h"

namespace nagfast {
namespace {

// Without a branch: whether a neuron is there is as good as random.
void append(const uint32_t* map, uint64_t index, uint32_t* list, int64_t& count) {
  const uint32_t offset = map[index];
  list[count] = offset;
  count += offset != 0;
}

// Four indices, read as one word where they are short.
void append_four(const uint32_t* map, const uint16_t* indices, uint32_t* list, int64_t& count) {
  uint64_t word;
  std::memcpy(&word, indices, sizeof word);
  append(map, word & 0xFFFF, list, count);
  append(map, word >> 16 & 0xFFFF, list, count);
  append(map, word >> 32 & 0xFFFF, list, count);
  append(map, word >> 48, list, count);
}

void append_four(const uint32_t* map, const uint32_t* indices, uint32_t* list, int64_t& count) {
  for (int j = 0; j < 4; ++j) append(map, indices[j], list, count);
}


// Room for so many entries in an odd number of cache lines, so that the lists of a batch do not meet in a few sets of
// the cache.
int64_t odd_lines(int64_t entries) {
  constexpr int64_t kLine = 64 / sizeof(uint32_t);
  return ((entries + kLine - 1) / kLine | 1) * kLine;
}

}  // namespace

template <typename Index>
RowLists<Index>::RowLists(const NagView<Index>& queries, int64_t first, int64_t last)
    : layers_(queries.layers),
      k_(queries.k),
      first_(first),
      taken_count_(last - first),
      stride_(odd_lines(layers_ * k_ + kBitGroup)),
      taken_(static_cast<size_t>(layers_ * taken_count_ * k_)),
      empty_(static_cast<size_t>(taken_count_)),
      lists_(static_cast<size_t>(kBitBatch * stride_)) {
  for (int64_t i = 0; i < taken_count_; ++i) {
    empty_[static_cast<size_t>(i)] = queries.starts_with_sentinel(first + i);
    const Index* from = queries.document(first + i);
    Index* to = taken_.data() + i * k_;
    for (int64_t l = 0; l < layers_; ++l, from += queries.layer_stride, to += taken_count_ * k_) {
      std::memcpy(to, from, static_cast<size_t>(k_) * sizeof(Index));
    }
  }
}

template <typename Index>
void RowLists<Index>::look_up(const uint32_t* map, int64_t neurons, int64_t start, int64_t end, const int64_t* numbers,
                              int64_t size) {
  std::fill(counts_, counts_ + size, int64_t{0});
  map += start * neurons;
  for (int64_t l = start; l < end; ++l, map += neurons) {
    const Index* layer = taken_.data() + (l * taken_count_ - first_) * k_;
    for (int64_t i = 0; i < size; ++i) {
      const Index* indices = layer + numbers[i] * k_;
      if (empty_[static_cast<size_t>(numbers[i] - first_)]) continue;
      uint32_t* rows = lists_.data() + i * stride_;
      int64_t count = counts_[i];
      int64_t j = 0;
      for (; j + 4 <= k_; j += 4) append_four(map, indices + j, rows, count);
      for (; j < k_; ++j) append(map, indices[j], rows, count);
      counts_[i] = count;
    }
  }
  for (int64_t i = 0; i < size; ++i) {
    uint32_t* rows = lists_.data() + i * stride_;
    std::fill(rows + counts_[i], rows + padded(i), 0u);
  }
}

template class RowLists<uint16_t>;
template class RowLists<uint32_t>;

}  // namespace nagfast
