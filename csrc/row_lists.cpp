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

template <typename Index>
RowLists<Index>::RowLists(int64_t layers, int64_t k)
    : layers_(layers),
      k_(k),
      stride_(layers * k + kBitGroup),
      taken_(static_cast<size_t>(kBitBatch * layers * k)),
      lists_(static_cast<size_t>(kBitBatch * stride_)) {}

template <typename Index>
void RowLists<Index>::take(const NagView<Index>& queries, const int64_t* numbers, int64_t size, int64_t following) {
  size_ = size;
  const int64_t bytes = ((layers_ - 1) * queries.layer_stride + k_) * static_cast<int64_t>(sizeof(Index));
  for (int64_t i = 0; i < size; ++i) {
    if (i < following) {
      const char* next = reinterpret_cast<const char*>(queries.document(numbers[size + i]));
      for (int64_t byte = 0; byte < bytes; byte += kLine) NAGFAST_PREFETCH(next + byte);
    }
    empty_[i] = queries.starts_with_sentinel(numbers[i]);
    const Index* from = queries.document(numbers[i]);
    Index* to = taken_.data() + i * k_;
    for (int64_t l = 0; l < layers_; ++l, from += queries.layer_stride, to += size * k_) {
      std::memcpy(to, from, static_cast<size_t>(k_) * sizeof(Index));
    }
  }
}

template <typename Index>
void RowLists<Index>::look_up(const uint32_t* map, int64_t neurons) {
  std::fill(counts_, counts_ + size_, int64_t{0});
  const int64_t map_bytes = neurons * static_cast<int64_t>(sizeof *map);
  const int64_t share = (map_bytes / kLine + size_ - 1) / size_ * kLine;  // of the next layer's map, sent for by each
  const Index* indices = taken_.data();
  for (int64_t l = 0; l < layers_; ++l, map += neurons) {
    const int64_t more = l + 1 < layers_ ? map_bytes : 0;
    for (int64_t i = 0; i < size_; ++i, indices += k_) {
      if (empty_[i]) continue;
      const char* following = reinterpret_cast<const char*>(map + neurons);
      for (int64_t byte = i * share; byte < std::min((i + 1) * share, more); byte += kLine) {
        NAGFAST_PREFETCH(following + byte);
      }
      uint32_t* rows = lists_.data() + i * stride_;
      int64_t count = counts_[i];
      int64_t j = 0;
      for (; j + 4 <= k_; j += 4) append_four(map, indices + j, rows, count);
      for (; j < k_; ++j) append(map, indices[j], rows, count);
      counts_[i] = count;
    }
  }
  for (int64_t i = 0; i < size_; ++i) {
    uint32_t* rows = lists_.data() + i * stride_;
    std::fill(rows + counts_[i], rows + padded(i), 0u);
  }
}

template class RowLists<uint16_t>;
template class RowLists<uint32_t>;

}  // namespace nagfast
