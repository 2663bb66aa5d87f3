// SPDX-License-Identifier: Apache-2.0
#include "row_lists.h"

#include <algorithm>
#include <cstring>

namespace nagfast {
namespace {

constexpr int64_t kLine = 64;

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
  constexpr int64_t kPerLine = kLine / sizeof(uint32_t);
  return ((entries + kPerLine - 1) / kPerLine | 1) * kPerLine;
}

}  // namespace

template <typename Index>
RowLists<Index>::RowLists(const NagView<Index>& queries)
    : queries_(queries),
      stride_(odd_lines(queries.layers * queries.k + kBitGroup)),
      lists_(static_cast<size_t>(kBitBatch * stride_)) {}

template <typename Index>
void RowLists<Index>::look_up(const uint32_t* map, int64_t neurons, int64_t start, int64_t end, const int64_t* places,
                              int64_t size) {
  const int64_t k = queries_.k;
  std::fill(counts_, counts_ + size, int64_t{0});
  const int64_t map_bytes = neurons * static_cast<int64_t>(sizeof *map);
  const int64_t share = (map_bytes / kLine + size - 1) / size * kLine;  // of the next layer's map, sent for by each
  map += start * neurons;
  for (int64_t l = start; l < end; ++l, map += neurons) {
    const int64_t more = l + 1 < end ? map_bytes : 0;
    const char* following = reinterpret_cast<const char*>(map + neurons);
    const Index* layer = taken_.get() + l * size_ * k;
    for (int64_t i = 0; i < size; ++i) {
      for (int64_t byte = i * share; byte < std::min((i + 1) * share, more); byte += kLine) {
        NAGFAST_PREFETCH(following + byte);
      }
      const Index* indices = layer + places[i] * k;
      if (empty_[static_cast<size_t>(places[i])]) continue;
      uint32_t* rows = lists_.data() + i * stride_;
      int64_t count = counts_[i];
      int64_t j = 0;
      for (; j + 4 <= k; j += 4) append_four(map, indices + j, rows, count);
      for (; j < k; ++j) append(map, indices[j], rows, count);
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
