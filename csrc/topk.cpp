// SPDX-License-Identifier: Apache-2.0
#include "topk.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

#include "parallel.h"

namespace nagfast {
namespace {

// Up to this many keys an insertion sort beats a heap, and up to this k a heap beats selecting and sorting.
constexpr int64_t kSmallSort = 64;

const TopkPasses& passes_of(Isa isa) {
  switch (isa) {
    case Isa::kScalar:
      return kTopkScalar;
#if defined(NAGFAST_X86)
    case Isa::kAvx2:
      return kTopkAvx2;
    case Isa::kAvx512:
      return kTopkAvx512;
#endif
    default:
      throw std::logic_error("topk: no code for this instruction set in this build");
  }
}

// Larger for a larger value, then for a lower index. Precondition: not a NaN.
uint64_t sort_key(float value, uint32_t index) {
  value += 0.0f;  // -0 becomes +0, with which it ties
  uint32_t word;
  std::memcpy(&word, &value, sizeof word);
  const uint32_t ordered = (word & 0x80000000u) ? ~word : word | 0x80000000u;
  return (static_cast<uint64_t>(ordered) << 32) | ~index;
}

// Puts the k largest of keys[0..count) first, in descending order.
void sort_largest(uint64_t* keys, int64_t count, int64_t k) {
  const std::greater<uint64_t> descending;
  if (count > kSmallSort) {
    if (k <= kSmallSort) {
      std::partial_sort(keys, keys + k, keys + count, descending);
    } else {
      std::nth_element(keys, keys + (k - 1), keys + count, descending);
      std::sort(keys, keys + k, descending);
    }
    return;
  }
  for (int64_t i = 1; i < count; ++i) {
    const uint64_t key = keys[i];
    int64_t j = i;
    for (; j > 0 && keys[j - 1] < key; --j) keys[j] = keys[j - 1];
    keys[j] = key;
  }
}

// Memory of one worker, allocated once.
struct Scratch {
  explicit Scratch(int64_t columns, int64_t groups)
      : maxima(static_cast<size_t>(groups)),
        indices(static_cast<size_t>(columns)),
        keys(static_cast<size_t>(columns)) {}
  std::vector<float> maxima;
  std::vector<uint32_t> indices;
  std::vector<uint64_t> keys;
};

[[noreturn]] void refuse_nan(int64_t row) {
  throw std::invalid_argument("values: row " + std::to_string(row) +
                              " holds a NaN, which has no rank; check the model's outputs or drop the row");
}

// Fills scratch.indices with a superset of the k largest and returns its size, or -1 where the row holds a NaN.
int64_t find_candidates(const float* row, int64_t columns, int64_t k, int64_t groups, const TopkPasses& passes,
                        Scratch& scratch) {
  if (groups == 0) {
    if (std::any_of(row, row + columns, [](float value) { return value != value; })) return -1;
    std::iota(scratch.indices.begin(), scratch.indices.end(), 0u);
    return columns;
  }
  float* maxima = scratch.maxima.data();
  if (passes.group_maxima(row, columns, groups, maxima)) return -1;
  std::nth_element(maxima, maxima + (k - 1), maxima + groups, std::greater<float>());
  return passes.collect(row, columns, maxima[k - 1], scratch.indices.data());
}

// At least twice as many groups as k, or none where a row is too short to gain from them.
int64_t group_count(int64_t columns, int64_t k) {
  const int64_t groups = (2 * k + kTopkStrip - 1) / kTopkStrip * kTopkStrip;
  return 2 * groups <= columns ? groups : 0;
}

}  // namespace

template <typename Index>
void topk(const TopkBatch<Index>& batch, int threads, Isa isa) {
  const TopkPasses& passes = passes_of(isa);
  const int64_t groups = group_count(batch.columns, batch.k);
  parallel_ranges(batch.rows, 1, threads, [&](int64_t first, int64_t last) {
    if (first == last) return;
    Scratch scratch(batch.columns, groups);
    for (int64_t r = first; r < last; ++r) {
      const float* row = batch.values + r * batch.row_stride;
      const int64_t count = find_candidates(row, batch.columns, batch.k, groups, passes, scratch);
      if (count < 0) refuse_nan(r);
      uint64_t* keys = scratch.keys.data();
      for (int64_t c = 0; c < count; ++c) {
        const uint32_t index = scratch.indices[static_cast<size_t>(c)];
        keys[c] = sort_key(row[index], index);
      }
      sort_largest(keys, count, batch.k);
      Index* out = batch.out + r * batch.out_stride;
      for (int64_t i = 0; i < batch.k; ++i) out[i] = static_cast<Index>(~static_cast<uint32_t>(keys[i]));
    }
  });
}

template void topk<uint16_t>(const TopkBatch<uint16_t>&, int, Isa);
template void topk<uint32_t>(const TopkBatch<uint32_t>&, int, Isa);

}  // namespace nagfast
