// SPDX-License-Identifier: Apache-2.0
#include "count.h"

#include <atomic>
#include <vector>

#include "parallel.h"

namespace nagfast {
namespace {

[[noreturn]] void refuse_duplicate(int64_t d, int64_t l, int64_t index) {
  throw std::invalid_argument("nags: document " + std::to_string(d) + ", layer " + std::to_string(l) +
                              " holds neuron " + std::to_string(index) +
                              " twice; a NAG holds each neuron at most once per layer");
}

// Finds a neuron that occurs twice in a row: seen[i] is the number of the last row that held neuron i.
class DuplicateFinder {
 public:
  explicit DuplicateFinder(int64_t neurons) : seen_(static_cast<size_t>(neurons), 0) {}

  // Returns the position of the first repeated or out-of-range entry, or k. An entry is looked at once it is in range.
  template <typename Index>
  int64_t scan(const Index* row, int64_t k) {
    if (++row_ == 0) {  // wrapped around: forget everything
      std::fill(seen_.begin(), seen_.end(), 0u);
      row_ = 1;
    }
    for (int64_t i = 0; i < k; ++i) {
      if (row[i] >= seen_.size() || seen_[row[i]] == row_) return i;
      seen_[row[i]] = row_;
    }
    return k;
  }

 private:
  std::vector<uint32_t> seen_;
  uint32_t row_ = 0;
};

template <typename Index>
void check_document(const NagView<Index>& nags, int64_t d, int64_t neurons, DuplicateFinder& finder) {
  for (int64_t l = 0; l < nags.layers; ++l) {
    const Index* row = nags.document(d) + l * nags.layer_stride;
    const int64_t i = finder.scan(row, nags.k);
    if (i == nags.k) continue;
    if (static_cast<int64_t>(row[i]) >= neurons) refuse_index(nags, d, neurons);
    refuse_duplicate(d, l, row[i]);
  }
}

}  // namespace

template <typename Index>
int64_t count(const NagView<Index>& nags, int64_t neurons, int64_t* counts, int threads) {
  std::atomic<int64_t> counted{0};
  parallel_ranges(nags.documents, 64, threads, [&](int64_t first, int64_t last) {
    DuplicateFinder finder(neurons);
    int64_t with_nag = 0;
    for (int64_t d = first; d < last; ++d) {
      if (nags.starts_with_sentinel(d)) {
        require_all_sentinel(nags, d);
        continue;
      }
      check_document(nags, d, neurons, finder);
      ++with_nag;
    }
    counted += with_nag;
  });
  // Layers, not documents, are shared out: no two threads add to one counter.
  parallel_ranges(nags.layers, 1, threads, [&](int64_t first, int64_t last) {
    for (int64_t d = 0; d < nags.documents; ++d) {
      if (nags.starts_with_sentinel(d)) continue;
      for (int64_t l = first; l < last; ++l) {
        const Index* row = nags.document(d) + l * nags.layer_stride;
        for (int64_t i = 0; i < nags.k; ++i) ++counts[l * neurons + row[i]];
      }
    }
  });
  return counted;
}

template int64_t count(const NagView<uint16_t>&, int64_t, int64_t*, int);
template int64_t count(const NagView<uint32_t>&, int64_t, int64_t*, int);

}  // namespace nagfast
