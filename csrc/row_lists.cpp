// SPDX-License-Identifier: Apache-2.0
#include "row_lists.h"

#include <algorithm>
#include <cstring>

#include "prefetch.h"

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

}  // namespace

RowLists::RowLists(int64_t layers, int64_t k)
    : stride_(layers * k + kBitGroup), lists_(static_cast<size_t>(kBitBatch * stride_)) {}

template <typename Index>
void RowLists::look_up(const NagView<Index>& queries, const int64_t* numbers, int64_t size, const uint32_t* map,
                       int64_t neurons) {
  std::fill(counts_, counts_ + size, int64_t{0});
  const int64_t map_bytes = neurons * static_cast<int64_t>(sizeof *map);
  const int64_t share = (map_bytes / kLine + size - 1) / size * kLine;  // of the next layer's map, sent for by each
  for (int64_t l = 0; l < queries.layers; ++l, map += neurons) {
    const int64_t more = l + 1 < queries.layers ? map_bytes : 0;
    for (int64_t i = 0; i < size; ++i) {
      if (queries.starts_with_sentinel(numbers[i])) continue;
      const char* following = reinterpret_cast<const char*>(map + neurons);
      for (int64_t byte = i * share; byte < std::min((i + 1) * share, more); byte += kLine) {
        NAGFAST_PREFETCH(following + byte);
      }
      const Index* indices = queries.document(numbers[i]) + l * queries.layer_stride;
      uint32_t* rows = lists_.data() + i * stride_;
      int64_t count = counts_[i];
      int64_t j = 0;
      for (; j + 4 <= queries.k; j += 4) append_four(map, indices + j, rows, count);
      for (; j < queries.k; ++j) append(map, indices[j], rows, count);
      counts_[i] = count;
    }
  }
  for (int64_t i = 0; i < size; ++i) {
    uint32_t* rows = lists_.data() + i * stride_;
    std::fill(rows + counts_[i], rows + padded(i), 0u);
  }
}

template void RowLists::look_up(const NagView<uint16_t>&, const int64_t*, int64_t, const uint32_t*, int64_t);
template void RowLists::look_up(const NagView<uint32_t>&, const int64_t*, int64_t, const uint32_t*, int64_t);

}  // namespace nagfast
