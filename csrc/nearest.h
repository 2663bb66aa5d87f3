// SPDX-License-Identifier: Apache-2.0
// The best k (count, id) of a query: count descending, then id ascending.
#pragma once

#include <algorithm>
#include <cstdint>

namespace nagfast {

constexpr int kIdBits = 48;
constexpr int64_t kMaxId = (int64_t{1} << kIdBits) - 1;
constexpr int64_t kMaxCount = 65534;

// Results as callers keep them, contiguous, -1 and -1 for none; not owned.
struct NearestResults {
  int32_t* counts;  // [queries, k]
  int64_t* ids;     // [queries, k]
  int64_t k;
};

// One number per target, the larger the better: count + 1 above the complement of the id; 0 is none.
using NearestKey = uint64_t;

inline NearestKey nearest_key(int64_t count, int64_t id) {
  return static_cast<uint64_t>(count + 1) << kIdBits | static_cast<uint64_t>(kMaxId - id);
}
inline int64_t count_of(NearestKey key) { return static_cast<int64_t>(key >> kIdBits) - 1; }
inline int64_t id_of(NearestKey key) {
  return key == 0 ? -1 : kMaxId - static_cast<int64_t>(key & static_cast<uint64_t>(kMaxId));
}

// k keys as a heap, the worst one in front; not owned.
struct NearestHeap {
  NearestKey* keys;
  int64_t k;

  NearestKey worst() const { return keys[0]; }

  // Reads row `query` of the results, in any order.
  void read(const NearestResults& results, int64_t query) {
    const int32_t* counts = results.counts + query * k;
    const int64_t* ids = results.ids + query * k;
    for (int64_t i = 0; i < k; ++i) keys[i] = counts[i] < 0 ? 0 : nearest_key(counts[i], ids[i]);
    std::make_heap(keys, keys + k, worse_last);
  }

  // Precondition: key > worst(), which it replaces.
  void replace_worst(NearestKey key) {
    int64_t hole = 0;
    for (int64_t child = 1; child < k; child = 2 * hole + 1) {
      if (child + 1 < k && keys[child + 1] < keys[child]) ++child;
      if (keys[child] >= key) break;
      keys[hole] = keys[child];
      hole = child;
    }
    keys[hole] = key;
  }

  // Writes row `query` of the results, best first; the heap is used up.
  void write(const NearestResults& results, int64_t query) {
    std::sort(keys, keys + k, worse_last);
    for (int64_t i = 0; i < k; ++i) {
      results.counts[query * k + i] = static_cast<int32_t>(count_of(keys[i]));
      results.ids[query * k + i] = id_of(keys[i]);
    }
  }

 private:
  static bool worse_last(NearestKey a, NearestKey b) { return a > b; }
};

}  // namespace nagfast
